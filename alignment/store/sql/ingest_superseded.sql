-- Purpose: refused lines that were read since: the same lines of the same file, or all of a file that was replaced under its name.
-- Parameters: path VARCHAR, id VARCHAR (of the file that was read now), first_line BIGINT and last_line BIGINT (of what was read), last BOOLEAN
--   (its end was reached), own VARCHAR[] (what this reading quarantined itself).
-- Grain: one quarantined record; of a replaced file only if nothing of it was ever accepted.
SELECT open_quarantine.id
FROM open_quarantine
WHERE source_file = $id AND line_number BETWEEN $first_line AND $last_line AND NOT list_contains($own::VARCHAR[], open_quarantine.id)
UNION
SELECT open_quarantine.id
FROM open_quarantine
SEMI JOIN (
    SELECT id FROM source_files WHERE path = $path AND id <> $id GROUP BY id HAVING sum(rows_read) = 0
) AS refused ON refused.id = source_file
WHERE $last;
