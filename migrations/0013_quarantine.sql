-- The ids of jobs are unique at an upstream: the one that commits an id first has it. Rows of older versions have no upstream.
ALTER TABLE attempts ADD COLUMN upstream TEXT;
CREATE UNIQUE INDEX attempts_by_job ON attempts (upstream, handle) WHERE handle IS NOT NULL AND upstream IS NOT NULL;

-- What came for a paid call, or from a result's link, and could not be turned into an image. The bytes lie in the blob store
-- under the row's id.
CREATE TABLE quarantine (
    id         TEXT   NOT NULL PRIMARY KEY,
    attempt_id TEXT   NOT NULL,
    task_id    TEXT   NOT NULL,
    tenant     TEXT   NOT NULL,
    provider_id TEXT  NOT NULL,
    -- answer | download
    kind       TEXT   NOT NULL,
    -- open | recovered
    state      TEXT   NOT NULL,
    sha256     TEXT   NOT NULL,
    bytes      BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    detail     TEXT   NOT NULL,
    UNIQUE (attempt_id, sha256)
);

CREATE INDEX quarantine_by_task ON quarantine (task_id);
CREATE INDEX quarantine_until ON quarantine (expires_at);
CREATE INDEX quarantine_open ON quarantine (id) WHERE state = 'open';

-- Items whose rows are gone, until their bytes are.
CREATE TABLE quarantine_deletions (
    id TEXT NOT NULL PRIMARY KEY
);
