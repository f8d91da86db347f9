-- Purpose: what was read of a file before, how much of it was no exchange, and how much unusable.
-- Parameters: id VARCHAR (of the file), anybodys VARCHAR[] (reasons that are not counted as unusable).
-- Grain: one row. Lines of people who were erased, and rows that a data check refused, are not counted as unusable.
SELECT
    coalesce((SELECT sum(rows_read) FROM source_files WHERE id = $id), 0)::BIGINT AS read,
    coalesce((SELECT sum(rows_skipped) FROM source_files WHERE id = $id), 0)::BIGINT AS skipped,
    (
        SELECT count(*) FROM open_quarantine
        WHERE source_file = $id AND reason <> 'erased_subject' AND NOT list_contains($anybodys::VARCHAR[], reason) AND NOT starts_with(reason, 'check:')
            AND line_number <= (SELECT max(last_line) FROM source_files WHERE id = $id AND rows_read > 0)
    ) AS unusable;
