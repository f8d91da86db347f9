-- Purpose: the gate's decisions, newest first.
-- Parameters: $limit; $decision, one that is returned however old it is, or NULL.
-- Grain: one decision; `waiting` if a person must approve it and nobody has answered.
SELECT
    id, night_id, champion, challenger, decision, reasons, decided_at, weakened,
    id IN (SELECT decision_id FROM waiting_approvals) AS waiting
FROM gate_decisions
QUALIFY row_number() OVER (ORDER BY seq DESC) <= $limit OR id = $decision
ORDER BY seq DESC
