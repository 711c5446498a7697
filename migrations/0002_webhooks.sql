-- Endpoints callers registered.
CREATE TABLE webhooks (
    id              TEXT   NOT NULL PRIMARY KEY,
    tenant          TEXT   NOT NULL,
    url             TEXT   NOT NULL,
    -- JSON; an empty list means the default events.
    events          TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    disabled_at     BIGINT,
    disabled_reason TEXT
);

CREATE INDEX webhooks_by_tenant ON webhooks (tenant, id);

-- How often a signing secret was exchanged: an endpoint's, or a tenant's for addresses that requests name. The secrets
-- themselves are derived and never written.
CREATE TABLE webhook_secrets (
    owner         TEXT   NOT NULL PRIMARY KEY,
    generation    BIGINT NOT NULL,
    overlap_until BIGINT
);

-- The outbox: written in the transaction of what it tells. A pending row owes a letter at its wake_at, which is also its
-- retry timer and its lease; version fences those who have lost the lease.
CREATE TABLE deliveries (
    id          TEXT    NOT NULL PRIMARY KEY,
    tenant      TEXT    NOT NULL,
    task_id     TEXT,
    webhook_id  TEXT,
    url         TEXT    NOT NULL,
    host        TEXT    NOT NULL,
    -- A task at an endpoint: of one line, a letter goes only when no earlier one is pending.
    line        TEXT    NOT NULL,
    seq         BIGINT  NOT NULL,
    event       TEXT    NOT NULL,
    body        TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    -- Tried in vain, or owed to a host in trouble: such letters have a share of their own, so that they delay no other.
    troubled    BOOLEAN NOT NULL,
    tries       BIGINT  NOT NULL,
    version     BIGINT  NOT NULL,
    wake_at     BIGINT,
    -- Whether wake_at is the end of a lease.
    leased      BOOLEAN NOT NULL,
    created_at  BIGINT  NOT NULL,
    finished_at BIGINT,
    log         TEXT    NOT NULL
);

CREATE INDEX deliveries_due ON deliveries (troubled, wake_at) WHERE state = 'pending';
CREATE INDEX deliveries_in_line ON deliveries (line, seq);
CREATE INDEX deliveries_by_tenant ON deliveries (tenant, id);
CREATE INDEX deliveries_by_webhook ON deliveries (webhook_id, id) WHERE webhook_id IS NOT NULL;

-- The labels of a task, to find it by: a digest of one label and its value each, because values can be longer than an
-- index takes.
CREATE TABLE task_labels (
    owner   TEXT NOT NULL,
    label   TEXT NOT NULL,
    task_id TEXT NOT NULL,
    PRIMARY KEY (owner, label, task_id)
);
