-- Purpose: what became of each hook of each change, by its last try, newest first.
-- Parameters: $release (NULL: of all releases), $limit.
-- Grain: one hook of one change; `runs` counts how often it was run.
SELECT
    hook, event, arg_max(release_id, recorded_at) AS release_id, arg_max(ok, recorded_at) AS ok, arg_max(tries, recorded_at) AS tries,
    arg_max(detail, recorded_at) AS detail, count(*) AS runs, max(recorded_at) AS recorded_at
FROM hook_runs
WHERE $release IS NULL OR release_id = $release
GROUP BY hook, change_id, event
ORDER BY recorded_at DESC, hook
LIMIT $limit;
