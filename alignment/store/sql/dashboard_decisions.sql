-- Purpose: the gate's decisions, newest first.
-- Parameters: $limit.
-- Grain: one decision.
SELECT id, night_id, champion, challenger, decision, reasons, decided_at
FROM gate_decisions
ORDER BY decided_at DESC, id DESC
LIMIT $limit
