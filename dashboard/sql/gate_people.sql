-- Purpose: people's verdicts on one decision of the gate, oldest first.
-- Parameters: $decision.
-- Grain: one verdict of one person.
SELECT verdict, actor, reason, decided_at
FROM gate_verdicts
WHERE decision_id = $decision
ORDER BY seq
