-- A task whose provider may or may not be at work on it counts against its account for as long as a job can run, not for as
-- long as it is looked for. NULL: it counts as long as its phase does.
ALTER TABLE tasks ADD COLUMN slot_until BIGINT;
DROP INDEX tasks_at_provider;
CREATE INDEX tasks_at_provider ON tasks (lane, phase, slot_until) WHERE phase IN ('submitting', 'waiting', 'reconciling');

-- Asking and bringing images here are claimed apart, so that neither waits for the other.
DROP INDEX tasks_due;
CREATE INDEX tasks_to_poll ON tasks (wake_at)
    WHERE wake_at IS NOT NULL AND phase IN ('submitting', 'waiting', 'reconciling', 'gathering');
CREATE INDEX tasks_to_save ON tasks (wake_at) WHERE wake_at IS NOT NULL AND phase = 'storing';
