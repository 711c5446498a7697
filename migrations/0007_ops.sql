-- For the figures of GET /metrics: small indexes of what is in trouble or nearly done.
CREATE INDEX tasks_storing ON tasks (started_at) WHERE phase = 'storing';
CREATE INDEX tasks_reconciling ON tasks (started_at) WHERE phase = 'reconciling';
