-- Purpose: the quarantined records that may be read again, each with its file.
-- Parameters: reason VARCHAR or NULL for all; source VARCHAR or NULL for all.
-- Grain: one quarantined record. Records of erased people are never read again.
SELECT
    open_quarantine.id, source_file, line_number, record_number, reason, raw, detail,
    source_files.source, source_files.path, source_files.bytes, source_files.mtime_ns
FROM open_quarantine
JOIN source_files ON source_files.id = source_file AND line_number BETWEEN first_line AND last_line
WHERE ($reason IS NULL OR reason = $reason) AND ($source IS NULL OR source = $source)
    AND reason <> 'erased_subject' AND rows_read > 0
QUALIFY row_number() OVER (PARTITION BY open_quarantine.id ORDER BY source_files.ingested_at DESC) = 1
ORDER BY source_file, line_number, record_number;
