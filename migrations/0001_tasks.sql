-- One folder for both databases: TEXT, BIGINT and BOOLEAN columns; times in milliseconds since the epoch; ids as text;
-- JSON is text that no query looks into.

-- The table is the queue: a row with a wake_at owes work at that moment. The same column is queue order, poll timer,
-- retry timer and lease; version fences writers that have lost their lease.
CREATE TABLE tasks (
    id              TEXT    NOT NULL PRIMARY KEY,
    -- Set for one of several upstream calls that together serve a task; such rows are not callers' to see.
    parent_id       TEXT,
    tenant          TEXT    NOT NULL,
    key_name        TEXT    NOT NULL,
    idempotency_key TEXT,
    fingerprint     TEXT    NOT NULL,
    request         TEXT    NOT NULL,
    model           TEXT    NOT NULL,
    operation       TEXT    NOT NULL,
    phase           TEXT    NOT NULL,
    lane            TEXT    NOT NULL,
    -- Who shares the lane's queue fairly with whom, and the place in it.
    flow            TEXT    NOT NULL,
    queue_rank      BIGINT  NOT NULL,
    version         BIGINT  NOT NULL,
    wake_at         BIGINT,
    created_at      BIGINT  NOT NULL,
    started_at      BIGINT,
    finished_at     BIGINT,
    start_by        BIGINT  NOT NULL,
    deadline_at     BIGINT  NOT NULL,
    state           TEXT    NOT NULL
);

CREATE UNIQUE INDEX tasks_by_idempotency_key ON tasks (tenant, idempotency_key);
CREATE INDEX tasks_by_tenant ON tasks (tenant, id) WHERE parent_id IS NULL;
CREATE INDEX tasks_by_parent ON tasks (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX tasks_open ON tasks (tenant) WHERE finished_at IS NULL AND parent_id IS NULL;
CREATE INDEX tasks_due ON tasks (wake_at) WHERE wake_at IS NOT NULL AND phase <> 'queued';
CREATE INDEX tasks_queued ON tasks (lane, queue_rank) WHERE phase = 'queued';
CREATE INDEX tasks_flows ON tasks (lane, flow, queue_rank) WHERE phase = 'queued';
CREATE INDEX tasks_queued_later ON tasks (wake_at) WHERE phase = 'queued';
CREATE INDEX tasks_queued_until ON tasks (start_by) WHERE phase = 'queued';
CREATE INDEX tasks_in_flight ON tasks (lane) WHERE phase IN ('submitting', 'waiting', 'reconciling');

-- Written before its paid call is sent.
CREATE TABLE attempts (
    id         TEXT   NOT NULL PRIMARY KEY,
    task_id    TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    provider   TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    handle     TEXT,
    -- SHA-256 of the token in the attempt's callback address, when it has one.
    token_hash TEXT,
    -- An id a callback gave; it counts for nothing until the provider confirms it.
    hint       TEXT,
    -- When the job is next looked for although its task does not wait for it any more.
    look_at    BIGINT,
    started_at BIGINT NOT NULL,
    detail     TEXT   NOT NULL,
    UNIQUE (task_id, number)
);

CREATE INDEX attempts_by_handle ON attempts (provider, handle) WHERE handle IS NOT NULL;
CREATE INDEX attempts_to_look_for ON attempts (look_at) WHERE look_at IS NOT NULL;
CREATE UNIQUE INDEX attempts_by_token ON attempts (token_hash) WHERE token_hash IS NOT NULL;

-- What is known of a provider account, one document each.
CREATE TABLE lanes (
    id    TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL
);

-- A picture in custody, written with the end of its task; the bytes lie in the blob store under their SHA-256.
CREATE TABLE images (
    task_id    TEXT   NOT NULL,
    position   BIGINT NOT NULL,
    sha256     TEXT   NOT NULL,
    media_type TEXT   NOT NULL,
    width      BIGINT NOT NULL,
    height     BIGINT NOT NULL,
    bytes      BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    -- Whether it came after the task had ended.
    late       BOOLEAN NOT NULL,
    PRIMARY KEY (task_id, position)
);

-- An input image or mask in custody.
CREATE TABLE files (
    id         TEXT   NOT NULL PRIMARY KEY,
    tenant     TEXT   NOT NULL,
    sha256     TEXT   NOT NULL,
    media_type TEXT   NOT NULL,
    width      BIGINT NOT NULL,
    height     BIGINT NOT NULL,
    bytes      BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- What callers are told, in order. Number 1 is task.queued and is not written: the task's own row says it.
CREATE TABLE events (
    task_id    TEXT   NOT NULL,
    seq        BIGINT NOT NULL,
    name       TEXT   NOT NULL,
    data       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (task_id, seq)
);

-- Secrets the gateway made for itself, and the like.
CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
