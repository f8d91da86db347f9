-- Purpose: how far each file of a source was read, so that a grown, renamed, copied or compressed file is recognised.
-- Parameters: source VARCHAR.
-- Grain: one file, at the end of its last batch, under the name from which that batch was read: copies add an empty batch later.
SELECT
    id, path, head_bytes, head, end_offset, sha256,
    -- A refused block counts as unread: its position is where it begins.
    CASE WHEN end_offset = start_offset AND NOT finished THEN first_line - 1 ELSE last_line END AS last_line
FROM source_files
WHERE source = $source AND head IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY id ORDER BY end_offset DESC, start_offset, ingested_at DESC) = 1
ORDER BY end_offset DESC;
