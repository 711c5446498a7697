-- What every accept and every claim asks is answered from the index alone: which in a line may go now, how many a lane has
-- at its provider, how many are open. Without all of its columns in the index, each row would be looked at for them.
DROP INDEX IF EXISTS tasks_queued;
CREATE INDEX tasks_queued ON tasks (lane, queue_rank, wake_at, phase) WHERE phase = 'queued';
DROP INDEX IF EXISTS tasks_in_flight;
CREATE INDEX tasks_in_flight ON tasks (lane, phase) WHERE phase IN ('submitting', 'waiting', 'reconciling');
DROP INDEX IF EXISTS tasks_open;
CREATE INDEX tasks_open ON tasks (tenant, finished_at, parent_id) WHERE finished_at IS NULL AND parent_id IS NULL;
DROP INDEX IF EXISTS tasks_open_by_key;
CREATE INDEX tasks_open_by_key ON tasks (key_name, finished_at, parent_id) WHERE finished_at IS NULL AND parent_id IS NULL;
-- The same for letters: those of a host that has as many on their way as it may are passed over by the index.
DROP INDEX IF EXISTS deliveries_due;
CREATE INDEX deliveries_due ON deliveries (troubled, wake_at, host, state) WHERE state = 'pending';
