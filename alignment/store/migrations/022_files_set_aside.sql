-- grain: one log file, as it was (path, bytes, time of change), that was kept out of a night whole, and why; `judged_by` is a hash of the
-- source's mapping and limits: with others the file is looked at again. kind: unusable (too many bad lines), damaged or unreadable.
CREATE TABLE files_set_aside (
    id VARCHAR, source VARCHAR, path VARCHAR, bytes BIGINT, mtime_ns BIGINT, judged_by VARCHAR, kind VARCHAR, reason VARCHAR,
    set_aside_at TIMESTAMP
);
-- Those that nobody let in, and that were not read since: the last word on each path.
CREATE VIEW open_set_aside AS
SELECT * FROM files_set_aside
WHERE NOT EXISTS (
    SELECT 1 FROM source_files
    WHERE source_files.source = files_set_aside.source AND source_files.path = files_set_aside.path
        AND rows_read > 0 AND source_files.ingested_at >= set_aside_at
)
QUALIFY row_number() OVER (PARTITION BY source, path ORDER BY set_aside_at DESC) = 1;
