-- Purpose: each gate metric that is a rate against the champion over the last decisions, for the trend lines.
-- Parameters: $limit, the number of decisions.
-- Grain: one metric of one decision, oldest first; `began_at` is when its night began.
WITH decided AS (
    SELECT id, night_id, decision, decided_at, seq
    FROM gate_decisions
    ORDER BY seq DESC
    LIMIT $limit
)
SELECT
    decided.night_id, decided.decision, coalesce(began.began_at, decided.decided_at) AS began_at, gate_metrics.name, gate_metrics.suite,
    gate_metrics.champion, gate_metrics.challenger, gate_metrics.n
FROM decided
LEFT JOIN (SELECT night_id, min(recorded_at) AS began_at FROM night_events GROUP BY night_id) AS began USING (night_id)
JOIN gate_metrics ON gate_metrics.decision_id = decided.id
WHERE coalesce(gate_metrics.unit, 'rate') = 'rate' AND coalesce(gate_metrics.since, '') = ''
ORDER BY decided.seq, gate_metrics.name
