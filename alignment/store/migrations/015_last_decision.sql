-- A person's approval is of the last decision of a night: what was asked before it is answered by nobody any more.

-- Decisions that people were asked to approve: the last of their night, for as long as it says promote.
CREATE VIEW asked_approvals AS
WITH last AS (
    SELECT * FROM gate_decisions QUALIFY row_number() OVER (PARTITION BY night_id ORDER BY decided_at DESC, id DESC) = 1
)
SELECT id AS decision_id, challenger AS release_id, night_id, decided_at FROM last
WHERE decision = 'promote' AND EXISTS (
    SELECT 1 FROM release_events AS events
    WHERE events.event = 'waits_for_approval' AND events.night_id = last.night_id AND events.release_id = last.challenger
        AND events.recorded_at >= last.decided_at
);

CREATE OR REPLACE VIEW waiting_approvals AS
SELECT * FROM asked_approvals AS asked
WHERE NOT EXISTS (SELECT 1 FROM gate_verdicts WHERE gate_verdicts.decision_id = asked.decision_id);
