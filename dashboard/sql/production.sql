-- Purpose: the latest event that put a release in production.
-- Parameters: $release.
-- Grain: at most one row.
SELECT release_id, event, actor, reason, night_id, recorded_at
FROM release_events
WHERE release_id = $release AND event IN ('promoted', 'rolled_back', 'withdrawn')
ORDER BY seq DESC
LIMIT 1
