-- What is being stored is found by tasks_storing_since, too: one index less to keep up.
DROP INDEX IF EXISTS tasks_storing;
