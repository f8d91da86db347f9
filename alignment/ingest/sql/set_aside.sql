-- Purpose: the files of a source that are set aside, and whether that happened since the source was last read.
-- Parameters: source VARCHAR.
-- Grain: one path.
SELECT
    path, bytes, mtime_ns, judged_by, kind, reason, set_aside_at,
    set_aside_at > coalesce((SELECT max(ingested_at) FROM source_files WHERE source = $source AND rows_read > 0), TIMESTAMP '1970-01-01')
        AS since_last_read
FROM open_set_aside
WHERE source = $source
ORDER BY set_aside_at DESC, path;
