-- Purpose: mark files as known but not yet read, like a file whose first block was refused.
-- Parameters: ids VARCHAR[] (of files).
-- Grain: one file under one of its names and one of its known beginnings.
INSERT INTO source_files BY NAME
SELECT
    id, path, source, head_bytes, head, any_value(bytes) AS bytes, any_value(mtime_ns) AS mtime_ns, sha256('') AS sha256, 0 AS start_offset,
    0 AS end_offset, 1 AS first_line, max(last_line) AS last_line, false AS finished, 0 AS rows_read, 0 AS rows_stored, 0 AS rows_duplicate,
    0 AS rows_quarantined, 0 AS rows_skipped, 0 AS rows_redacted, 0.0 AS seconds, max(ingested_at) AS ingested_at
FROM source_files
WHERE list_contains($ids::VARCHAR[], id) AND head IS NOT NULL AND coalesce(end_offset, 1) > 0
GROUP BY id, path, source, head_bytes, head;
