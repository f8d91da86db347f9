-- Purpose: how many lines were read and quarantined per day.
-- Parameters: $days, the last days on which anything was read.
-- Grain: one day (UTC) of reading.
SELECT ingested_at::DATE AS day, sum(rows_read)::BIGINT AS lines, sum(rows_quarantined)::BIGINT AS quarantined
FROM source_files
GROUP BY day
QUALIFY row_number() OVER (ORDER BY day DESC) <= $days
ORDER BY day;
