-- Letters of a host that has as many on their way as it may are passed over without a look at each. What is longer than any
-- name that can be looked up does not fit into an index of Postgres.
UPDATE deliveries SET host = SUBSTR(host, 1, 260) WHERE LENGTH(host) > 260;
CREATE INDEX deliveries_owed ON deliveries (troubled, wake_at, host, state) WHERE state = 'pending';
