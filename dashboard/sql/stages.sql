-- Purpose: for each stage of one night, its duration over all runs, its last run's counts, and how often it ran.
-- Parameters: $night.
-- Grain: one stage.
SELECT
    stage,
    sum(seconds) AS seconds,
    arg_max(counts, finished_at) AS counts,
    count(*) AS runs,
    max(finished_at) AS finished_at
FROM night_stages
WHERE night_id = $night
GROUP BY stage
ORDER BY max(finished_at), stage
