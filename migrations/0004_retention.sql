-- How long things are kept, and what becomes of their bytes.

-- When the pictures of a task that has ended are to go; null when it has none, or none any more.
ALTER TABLE tasks ADD COLUMN media_until BIGINT;
-- The picture's time is over: the row still describes it, its bytes are nobody's to see.
ALTER TABLE images ADD COLUMN gone BOOLEAN NOT NULL DEFAULT FALSE;
-- When a task last named the file: it is kept for its time from then on.
ALTER TABLE files ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;
-- The task a file came in with, or was made for; null for uploads, which are their callers' own.
ALTER TABLE files ADD COLUMN task_id TEXT;

CREATE INDEX tasks_with_media ON tasks (media_until) WHERE media_until IS NOT NULL;
CREATE INDEX tasks_ended ON tasks (finished_at) WHERE finished_at IS NOT NULL AND parent_id IS NULL;
CREATE INDEX tasks_storing ON tasks (id) WHERE phase = 'storing';
CREATE INDEX images_by_sha256 ON images (sha256);
CREATE INDEX files_by_sha256 ON files (sha256);
CREATE INDEX files_by_age ON files (created_at);
CREATE INDEX files_by_task ON files (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX deliveries_by_task ON deliveries (task_id) WHERE task_id IS NOT NULL;

-- Bytes a row no longer points to, written in the transaction that let go of them: removed from the blob store once nothing
-- else needs them, however often the process is killed on the way there.
CREATE TABLE erasures (
    sha256 TEXT   NOT NULL PRIMARY KEY,
    due_at BIGINT NOT NULL
);

CREATE INDEX erasures_due ON erasures (due_at);
