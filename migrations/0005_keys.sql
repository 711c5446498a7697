-- Managed API keys. The secret is not here: what is kept is an HMAC under the gateway's pepper. A revoked key stays, because
-- tasks, the ledger and the audit know it by its name.
CREATE TABLE api_keys (
    id             TEXT   NOT NULL PRIMARY KEY,
    name           TEXT   NOT NULL,
    tenant         TEXT   NOT NULL,
    role           TEXT   NOT NULL,
    -- JSON: models, requests a minute, open tasks, budgets in nano-dollars.
    limits         TEXT   NOT NULL,
    expires_at     BIGINT,
    hash           TEXT   NOT NULL,
    -- The secret before the last rotation, and until when it opens.
    previous_hash  TEXT,
    previous_until BIGINT,
    created_at     BIGINT NOT NULL,
    rotated_at     BIGINT,
    revoked_at     BIGINT
);

CREATE UNIQUE INDEX api_keys_by_name ON api_keys (name);

-- One row, once there was a key, that counts changes of the keys: replicas read it every few seconds, and the keys only when it moved.
CREATE TABLE key_changes (
    one   BIGINT NOT NULL PRIMARY KEY,
    count BIGINT NOT NULL
);

-- Requests a minute: how many of a key's were handed out to replicas in its present minute.
CREATE TABLE key_minutes (
    key_name TEXT   NOT NULL PRIMARY KEY,
    minute   BIGINT NOT NULL,
    taken    BIGINT NOT NULL
);

-- Open tasks of one key are counted behind this row's lock, so that two replicas do not both take the last place.
CREATE TABLE key_places (
    key_name TEXT   NOT NULL PRIMARY KEY,
    passed   BIGINT NOT NULL
);
CREATE INDEX tasks_open_by_key ON tasks (key_name) WHERE finished_at IS NULL AND parent_id IS NULL;

-- Who did what to the gateway, and who tried to. Rows are added, never changed, and cleared when they are old.
CREATE TABLE audit (
    id       TEXT   NOT NULL PRIMARY KEY,
    at       BIGINT NOT NULL,
    key_name TEXT   NOT NULL,
    tenant   TEXT   NOT NULL,
    act      TEXT   NOT NULL,
    subject  TEXT   NOT NULL,
    outcome  TEXT   NOT NULL,
    -- JSON, without secrets.
    details  TEXT   NOT NULL
);
CREATE INDEX audit_by_time ON audit (at);
