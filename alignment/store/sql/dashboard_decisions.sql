-- Purpose: the gate's decisions, newest first.
-- Parameters: $limit.
-- Grain: one decision; `waiting` where a person has to approve it and nobody has answered.
SELECT
    id, night_id, champion, challenger, decision, reasons, decided_at,
    EXISTS (
        SELECT 1 FROM waiting_approvals AS waits
        WHERE waits.release_id = gate_decisions.challenger AND waits.night_id = gate_decisions.night_id
    ) AND decision = 'promote' AS waiting
FROM gate_decisions
ORDER BY decided_at DESC, id DESC
LIMIT $limit
