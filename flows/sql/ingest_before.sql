-- Purpose: how many records of each file were read earlier, how many were no exchange, and how many unusable.
-- Parameters: ids VARCHAR[] (of the files), anybodys VARCHAR[] (reasons that do not count as unusable).
-- Grain: one file that was at least partly read. Lines of erased people and rows that a data check refused do not count as unusable.
WITH files AS (
    SELECT
        id, sum(rows_read)::BIGINT AS read, sum(rows_skipped)::BIGINT AS skipped, max(last_line) FILTER (WHERE rows_read > 0) AS last_line
    FROM source_files
    WHERE list_contains($ids::VARCHAR[], id)
    GROUP BY id
)
SELECT files.id, read, skipped, count(refused.id) AS unusable
FROM files
LEFT JOIN open_quarantine AS refused ON source_file = files.id
    AND reason <> 'erased_subject' AND NOT list_contains($anybodys::VARCHAR[], reason) AND NOT starts_with(reason, 'check:')
    AND line_number <= files.last_line
GROUP BY ALL;
