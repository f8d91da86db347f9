-- Purpose: how long the stages of the latest nights took, for the trend.
-- Parameters: $limit, the number of nights.
-- Grain: one stage of one night, all its runs together, oldest night first.
WITH recent AS (
    SELECT night_id, min(recorded_at) AS started_at
    FROM night_events
    GROUP BY night_id
    ORDER BY started_at DESC, night_id DESC
    LIMIT $limit
)
SELECT recent.night_id, recent.started_at, night_stages.stage, sum(night_stages.seconds) AS seconds, min(night_stages.finished_at) AS first
FROM recent
JOIN night_stages USING (night_id)
GROUP BY ALL
ORDER BY recent.started_at, first
