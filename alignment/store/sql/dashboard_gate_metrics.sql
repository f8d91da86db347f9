-- Purpose: what one decision of the gate rests on.
-- Parameters: $decision.
-- Grain: one metric of one suite.
SELECT *
FROM gate_metrics
WHERE decision_id = $decision
ORDER BY name DESC, suite
