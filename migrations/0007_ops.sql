-- For the figures of GET /metrics: small indexes of what is in trouble or nearly done.
CREATE INDEX tasks_storing_since ON tasks (started_at) WHERE phase = 'storing';
CREATE INDEX tasks_reconciling_since ON tasks (started_at) WHERE phase = 'reconciling';
