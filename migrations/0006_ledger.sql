-- Every move of money, written in the transaction of the fact that moved it and never changed. Amounts are nano-dollars;
-- each line moves three accounts by so much: what is reserved, what may have been charged, what was charged.
CREATE TABLE ledger (
    id         TEXT   NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    tenant     TEXT   NOT NULL,
    key_name   TEXT   NOT NULL,
    task_id    TEXT   NOT NULL,
    -- When the task was accepted: the day its money counts to.
    task_at    BIGINT NOT NULL,
    attempt_id TEXT,
    -- The attempt, or the task when it is about none: of each kind there is one line about it.
    about      TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    provider   TEXT   NOT NULL,
    model      TEXT   NOT NULL,
    billed     TEXT,
    -- By the catalogue, on the line that opens a task; NULL when no price is known.
    estimated  BIGINT,
    reserved   BIGINT NOT NULL,
    unresolved BIGINT NOT NULL,
    settled    BIGINT NOT NULL,
    UNIQUE (task_id, about, kind)
);

CREATE INDEX ledger_by_tenant ON ledger (tenant, task_at);
CREATE INDEX ledger_by_key ON ledger (key_name, task_at);

-- The sums of the ledger for keys that have, or had, a budget: one row for each day a task was accepted on (days since the
-- epoch, UTC) and one, under day -1, for all of them.
CREATE TABLE balances (
    key_name   TEXT   NOT NULL,
    day        BIGINT NOT NULL,
    reserved   BIGINT NOT NULL,
    unresolved BIGINT NOT NULL,
    settled    BIGINT NOT NULL,
    PRIMARY KEY (key_name, day)
);

-- Whether it was charged, to find those of which nobody can say.
ALTER TABLE attempts ADD COLUMN billed TEXT NOT NULL DEFAULT 'unknown';
UPDATE attempts SET billed = CASE WHEN detail LIKE '%"billed":"yes"%' THEN 'yes'
    WHEN detail LIKE '%"billed":"no"%' THEN 'no' ELSE 'unknown' END;
CREATE INDEX attempts_unresolved ON attempts (id) WHERE billed = 'unknown';
