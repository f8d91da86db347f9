-- Purpose: what was read for a night: all log files since the last night that finished before it.
-- Parameters: night_id VARCHAR.
-- Grain: one row.
SELECT
    coalesce(sum(rows_read), 0)::BIGINT AS read,
    coalesce(sum(rows_stored), 0)::BIGINT AS stored,
    coalesce(sum(rows_duplicate), 0)::BIGINT AS duplicate,
    coalesce(sum(rows_quarantined), 0)::BIGINT AS quarantined,
    coalesce(sum(rows_redacted), 0)::BIGINT AS redacted
FROM source_files
WHERE ingested_at > coalesce(
    (SELECT max(recorded_at) FROM night_events WHERE event = 'finished' AND night_id <> $night_id), TIMESTAMP '1970-01-01'
);
