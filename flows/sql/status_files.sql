-- Purpose: what became of the lines of the most recently read log files.
-- Parameters: none.
-- Grain: one log file of a source, all its batches together, newest first; a file that moved has its last path.
SELECT
    source,
    max_by(path, ingested_at) AS path,
    sum(rows_read)::BIGINT AS read,
    sum(rows_stored)::BIGINT AS stored,
    sum(rows_duplicate)::BIGINT AS duplicate,
    sum(rows_quarantined)::BIGINT AS quarantined,
    sum(rows_redacted)::BIGINT AS redacted
FROM source_files
GROUP BY source, id
ORDER BY max(ingested_at) DESC
LIMIT 10;
