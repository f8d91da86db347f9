-- Purpose: quarantined lines that were not stored by a later replay, for people to look at.
-- Parameters: reason VARCHAR or NULL for all; source VARCHAR or NULL for all; limit BIGINT.
-- Grain: one quarantined record, newest first.
SELECT
    open_quarantine.id, reason, source_files.path, line_number, record_number, detail, raw, quarantined_at
FROM open_quarantine
LEFT JOIN source_files ON source_files.id = source_file AND line_number BETWEEN first_line AND last_line
WHERE ($reason IS NULL OR reason = $reason) AND ($source IS NULL OR source = $source)
QUALIFY row_number() OVER (PARTITION BY open_quarantine.id ORDER BY source_files.ingested_at DESC) = 1
ORDER BY quarantined_at DESC, path, line_number
LIMIT $limit;
