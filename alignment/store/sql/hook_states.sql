-- Purpose: the outcome of each hook of each change, by its last attempt, newest first.
-- Parameters: $release (NULL: of all releases), $limit.
-- Grain: one hook of one change; `runs` counts its attempts.
SELECT
    hook, event, arg_max(release_id, seq) AS release_id, arg_max(ok, seq) AS ok, arg_max(tries, seq) AS tries,
    arg_max(detail, seq) AS detail, count(*) AS runs, arg_max(recorded_at, seq) AS recorded_at
FROM hook_runs
WHERE $release IS NULL OR release_id = $release
GROUP BY hook, change_id, event
ORDER BY max(seq) DESC, hook
LIMIT $limit;
