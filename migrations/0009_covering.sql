-- How many are open, at a provider or before a task in its line is answered from an index alone: without all its columns in
-- the index, each row would be looked at for them. The indexes these replace go in a step of their own, so that no
-- transaction of another gateway can be in the way of both.
CREATE INDEX tasks_line ON tasks (lane, queue_rank, wake_at, phase) WHERE phase = 'queued';
CREATE INDEX tasks_at_provider ON tasks (lane, phase) WHERE phase IN ('submitting', 'waiting', 'reconciling');
CREATE INDEX tasks_open_of_tenant ON tasks (tenant, finished_at, parent_id) WHERE finished_at IS NULL AND parent_id IS NULL;
CREATE INDEX tasks_open_of_key ON tasks (key_name, finished_at, parent_id) WHERE finished_at IS NULL AND parent_id IS NULL;
