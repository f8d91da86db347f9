-- Purpose: the nights, newest first, each with what it reported when it last finished.
-- Parameters: $limit, how many nights.
-- Grain: one night. A night that was started again after it finished counts as running.
SELECT
    night_id,
    max(recorded_at) FILTER (event = 'started') AS started_at,
    max(recorded_at) FILTER (event = 'finished') AS finished_at,
    arg_max(summary, recorded_at) FILTER (event = 'finished') AS summary
FROM night_events
GROUP BY night_id
ORDER BY max(recorded_at) FILTER (event = 'started') DESC NULLS LAST, night_id DESC
LIMIT $limit
