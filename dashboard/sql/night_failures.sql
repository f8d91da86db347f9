-- Purpose: what stopped a night before its end, newest first.
-- Parameters: $night.
-- Grain: one failure. A killed process leaves none.
SELECT
    recorded_at AS at,
        -- An earlier name of the gate's stage.
    CASE summary ->> '$.stage' WHEN 'release' THEN 'gate' ELSE summary ->> '$.stage' END AS stage,
    summary ->> '$.error' AS error
FROM night_events
WHERE night_id = $night AND event = 'failed'
ORDER BY recorded_at DESC, id
