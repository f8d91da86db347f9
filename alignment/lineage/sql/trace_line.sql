-- Purpose: what became of a line of a log file.
-- Parameters: path VARCHAR (whole, or its end), line BIGINT.
-- Grain: one exchange or quarantined line; a file that was delivered twice may have several.
SELECT DISTINCT kind, lines.id
FROM (
    SELECT 'exchange' AS kind, id, source_file, line_number FROM interactions
    UNION ALL SELECT 'quarantined line', id, source_file, line_number FROM quarantine
) AS lines
JOIN source_files ON source_files.id = lines.source_file
WHERE line_number = $line AND (path = $path OR ends_with(path, '/' || $path))
ORDER BY kind, lines.id;
