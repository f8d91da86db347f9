-- Purpose: the nights that made or gated a release.
-- Parameters: release VARCHAR.
-- Grain: one night.
SELECT night_id FROM release_events WHERE release_id = $release AND event = 'registered'
UNION
SELECT night_id FROM gate_decisions WHERE challenger = $release
ORDER BY night_id;
