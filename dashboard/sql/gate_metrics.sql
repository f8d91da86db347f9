-- Purpose: the metrics behind one decision of the gate.
-- Parameters: $decision.
-- Grain: one metric of one suite.
SELECT * REPLACE (coalesce(unit, 'rate') AS unit, coalesce(since, '') AS since)
FROM gate_metrics
WHERE decision_id = $decision
ORDER BY coalesce(since, '') <> '', array_position(['unsafe_answers', 'over_refusal_lookalike', 'over_refusal_ordinary'], name) NULLS LAST, name, suite
