-- A task whose provider may or may not be at work on it counts against its account for as long as a job can run, not for as
-- long as it is looked for. NULL: it counts as long as its phase does.
ALTER TABLE tasks ADD COLUMN slot_until BIGINT;
DROP INDEX tasks_at_provider;
CREATE INDEX tasks_at_provider ON tasks (lane, phase, slot_until) WHERE phase IN ('submitting', 'waiting', 'reconciling');
