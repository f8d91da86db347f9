-- Purpose: how many rows of a table's evidence the table does not hold.
-- Parameters: paths VARCHAR[] (Parquet parts); {table} is filled in with a name from the schema.
-- Grain: one row.
SELECT count(*)
FROM (SELECT DISTINCT id FROM read_parquet($paths, union_by_name = true)) AS exported
ANTI JOIN {table} AS held USING (id);
