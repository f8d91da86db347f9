-- Purpose: quarantined lines, newest first.
-- Parameters: $reason (NULL: any), $limit, $offset.
-- Grain: one line; `raw` is truncated, `total` counts all matching lines.
SELECT
    quarantine.id, path, line_number, reason, quarantined_at, left(raw, 500) AS raw, length(raw) > 500 AS cut, count(*) OVER () AS total
FROM quarantine
-- A file that grew has one row per part read.
LEFT JOIN (SELECT id, any_value(path) AS path FROM source_files GROUP BY id) AS files ON files.id = quarantine.source_file
WHERE $reason::VARCHAR IS NULL OR reason = $reason
ORDER BY quarantined_at DESC, path, line_number, quarantine.id
LIMIT $limit OFFSET $offset;
