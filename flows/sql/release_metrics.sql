-- Purpose: the gate's metrics of a release against its champion, from its last decision on the release.
-- Parameters: $release.
-- Grain: one metric.
SELECT name, challenger AS rate, diff, low, high, n, unscored, status, coalesce(unit, 'rate') AS unit, gate_decisions.champion AS compared_with
FROM gate_metrics
JOIN (
    SELECT id, champion FROM gate_decisions WHERE challenger = $release ORDER BY seq DESC LIMIT 1
) AS gate_decisions ON gate_decisions.id = decision_id
WHERE coalesce(since, '') = ''
ORDER BY name;
