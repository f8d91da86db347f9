-- Purpose: how far the latest nights came, and what their gate decided.
-- Parameters: none.
-- Grain: one night, newest first.
SELECT
    night_id,
    CASE WHEN bool_or(event = 'finished') THEN 'finished' ELSE arg_max(event, recorded_at) END AS state,
    max(recorded_at) AS since,
    max(summary ->> '$.decision') AS decision
FROM night_events
GROUP BY night_id
ORDER BY since DESC
LIMIT 10;
