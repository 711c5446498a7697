-- What 0010 replaced.
DROP INDEX IF EXISTS deliveries_due;
