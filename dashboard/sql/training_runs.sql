-- Purpose: the training runs, newest first.
-- Parameters: $limit, the number of nights.
-- Grain: one night, with its last run.
SELECT id, night_id, base, config, summary, seconds, finished_at
FROM training_runs
QUALIFY row_number() OVER (PARTITION BY night_id ORDER BY finished_at DESC, id DESC) = 1
ORDER BY finished_at DESC, id DESC
LIMIT $limit
