-- Purpose: the gate's last decision of a night or on a release, whether it waits for a person, and the person's last verdict.
-- Parameters: $night and $release, each NULL for any.
-- Grain: at most one row. `waits` stays true after the answer.
SELECT
    decisions.id, decisions.night_id, decisions.champion, decisions.challenger, decisions.decision, decisions.reasons, decisions.decided_at,
    decisions.seq,
    decisions.id IN (SELECT decision_id FROM asked_approvals) AS waits,
    (
        SELECT max_by(verdict, seq) FROM gate_verdicts WHERE gate_verdicts.decision_id = decisions.id
    ) AS verdict
FROM gate_decisions AS decisions
WHERE ($night::VARCHAR IS NULL OR decisions.night_id = $night) AND ($release::VARCHAR IS NULL OR decisions.challenger = $release)
ORDER BY decisions.seq DESC
LIMIT 1
