-- Purpose: the log lines from which an exchange or a quarantined line was read.
-- Parameters: id VARCHAR; {table} is interactions or quarantine.
-- Grain: one line number; a file read in several batches has a row per batch in source_files.
SELECT any_value(path) AS path, line_number
FROM {table} AS row
JOIN source_files
    ON source_files.id = row.source_file AND (last_line IS NULL OR line_number BETWEEN first_line AND last_line)
WHERE row.id = $id
GROUP BY line_number;
