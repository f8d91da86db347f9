-- Purpose: the earlier profiles of a kind, newest first.
-- Parameters: kind VARCHAR, before TIMESTAMP, limit INTEGER per source.
-- Grain: one profile; `stopped` tells whether its check stopped the data it describes.
SELECT
    *,
    EXISTS (SELECT 1 FROM check_results WHERE batch = batch_profiles.id AND severity = 'stop' AND NOT success) AS stopped
FROM batch_profiles
WHERE kind = $kind AND recorded_at < $before
QUALIFY row_number() OVER (PARTITION BY source ORDER BY recorded_at DESC, id) <= $limit
ORDER BY recorded_at DESC, id;
