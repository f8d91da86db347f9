-- Purpose: the nights, newest first, each with its report from when it last finished.
-- Parameters: $limit, the number of nights; $night, one that is returned however old it is, or NULL.
-- Grain: one night; `failures` counts what stopped it before its end.
SELECT
    night_id,
    min(recorded_at) AS started_at,
    max(recorded_at) FILTER (event = 'finished') AS finished_at,
    arg_max(summary, recorded_at) FILTER (event = 'finished') AS summary,
    count(*) FILTER (event = 'failed') AS failures
FROM night_events
GROUP BY night_id
QUALIFY row_number() OVER (ORDER BY started_at DESC, night_id DESC) <= $limit OR night_id = $night
ORDER BY started_at DESC, night_id DESC
