-- Purpose: the training runs, newest first.
-- Parameters: $limit, the number of nights; $night, one whose run is returned however old it is, or NULL.
-- Grain: one night, with its last run.
WITH last AS (
    SELECT id, night_id, base, config, summary, seconds, finished_at
    FROM training_runs
    QUALIFY row_number() OVER (PARTITION BY night_id ORDER BY finished_at DESC, id DESC) = 1
)
SELECT *
FROM last
QUALIFY row_number() OVER (ORDER BY finished_at DESC, id DESC) <= $limit OR night_id = $night
ORDER BY finished_at DESC, id DESC
