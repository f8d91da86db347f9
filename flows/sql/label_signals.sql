-- Purpose: what users did with the answers of some exchanges.
-- Parameters: ids VARCHAR[].
-- Grain: one signal.
SELECT interaction_id, kind, value
FROM signals
WHERE list_contains($ids, interaction_id)
ORDER BY interaction_id, recorded_at, id;
