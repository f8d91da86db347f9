-- Purpose: the night whose gate decided on a release last.
-- Parameters: $release.
-- Grain: at most one row.
SELECT night_id
FROM gate_decisions
WHERE challenger = $release
ORDER BY seq DESC
LIMIT 1
