-- What 0009 replaced.
DROP INDEX IF EXISTS tasks_queued;
DROP INDEX IF EXISTS tasks_in_flight;
DROP INDEX IF EXISTS tasks_open;
DROP INDEX IF EXISTS tasks_open_by_key;
