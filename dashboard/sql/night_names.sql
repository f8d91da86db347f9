-- Purpose: when each night began, which is its name on all pages.
-- Parameters: none.
-- Grain: one night.
SELECT night_id, min(recorded_at) AS started_at
FROM night_events
GROUP BY night_id
