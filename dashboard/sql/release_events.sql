-- Purpose: what happened to releases, who did it and why, newest first.
-- Parameters: $limit.
-- Grain: one event.
SELECT release_id, event, actor, reason, night_id, recorded_at
FROM release_events
ORDER BY seq DESC
LIMIT $limit
