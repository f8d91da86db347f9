-- Purpose: the release that is in production, and the event that put it there.
-- Parameters: none.
-- Grain: at most one row; none means that the base model answers.
SELECT release_id, event, actor, reason, night_id, recorded_at
FROM release_events
WHERE event IN ('promoted', 'rolled_back')
ORDER BY recorded_at DESC, id DESC
LIMIT 1
