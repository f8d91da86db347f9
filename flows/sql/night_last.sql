-- Purpose: the night that was started last, and how often it ended.
-- Parameters: none.
-- Grain: at most one night.
SELECT night_id, count(*) FILTER (event = 'finished') AS ends
FROM night_events
GROUP BY night_id
ORDER BY min(recorded_at) DESC
LIMIT 1;
