-- Purpose: refused lines that were read since: the same lines of the same file, or all lines of a file replaced under its name.
-- Parameters: source VARCHAR, own VARCHAR[] (quarantined by this reading itself). `read_now` holds what was read: path, id (of the file), first_line,
--   last_line, last (whether its end was reached).
-- Grain: one quarantined record; of a replaced file only if nothing of it was ever accepted.
WITH old AS (
    SELECT open_quarantine.id, source_file, line_number
    FROM open_quarantine
    WHERE NOT list_contains($own::VARCHAR[], open_quarantine.id)
)
SELECT old.id
FROM old
SEMI JOIN read_now ON source_file = read_now.id AND line_number BETWEEN first_line AND last_line
UNION
SELECT open_quarantine.id
FROM open_quarantine
SEMI JOIN (
    SELECT source_files.id
    FROM source_files
    JOIN read_now ON read_now.last AND source_files.source = $source AND source_files.path = read_now.path AND source_files.id <> read_now.id
    GROUP BY source_files.id, source_files.path
    HAVING sum(rows_read) = 0
) AS refused ON refused.id = source_file;
