-- Purpose: how many rows of a table's evidence are missing in the table.
-- Parameters: paths VARCHAR[] (Parquet parts); {table} is a name from the schema.
-- Grain: one row.
SELECT count(*)
FROM (SELECT DISTINCT id FROM read_parquet($paths, union_by_name = true)) AS exported
ANTI JOIN {table} AS held USING (id);
