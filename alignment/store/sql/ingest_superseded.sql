-- Purpose: refused lines of files that were repaired: another file was read under their name.
-- Parameters: path VARCHAR, id VARCHAR (of the file that was read now).
-- Grain: one quarantined record of a file of which nothing was ever accepted.
SELECT open_quarantine.id
FROM open_quarantine
SEMI JOIN (
    SELECT id FROM source_files WHERE path = $path AND id <> $id GROUP BY id HAVING sum(rows_read) = 0
) AS refused ON refused.id = source_file;
