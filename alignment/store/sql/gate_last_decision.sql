-- Purpose: the gate's last decision of a night, whether it waits for a person, and what a person said of it last.
-- Parameters: $night, or NULL for the last decision of any.
-- Grain: at most one row. `waits` stays true after the answer.
SELECT
    decisions.id, decisions.night_id, decisions.champion, decisions.challenger, decisions.decision, decisions.reasons, decisions.decided_at,
    decisions.id IN (SELECT decision_id FROM asked_approvals) AS waits,
    (
        SELECT max_by(verdict, decided_at) FROM gate_verdicts WHERE gate_verdicts.decision_id = decisions.id
    ) AS verdict
FROM gate_decisions AS decisions
WHERE $night::VARCHAR IS NULL OR decisions.night_id = $night
ORDER BY decisions.decided_at DESC, decisions.id DESC
LIMIT 1
