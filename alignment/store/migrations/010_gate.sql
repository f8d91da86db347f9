-- What the gate's evidence is worth: clusters, and the scorer's errors as people found them.
ALTER TABLE gate_metrics ADD COLUMN clusters INTEGER;
ALTER TABLE gate_metrics ADD COLUMN design_effect DOUBLE;
ALTER TABLE gate_metrics ADD COLUMN critical BOOLEAN;
ALTER TABLE gate_metrics ADD COLUMN corrected_champion DOUBLE;
ALTER TABLE gate_metrics ADD COLUMN corrected_challenger DOUBLE;
ALTER TABLE gate_metrics ADD COLUMN corrected_diff DOUBLE;
ALTER TABLE gate_metrics ADD COLUMN corrected_low DOUBLE;
ALTER TABLE gate_metrics ADD COLUMN corrected_high DOUBLE;
ALTER TABLE gate_metrics ADD COLUMN calibration VARCHAR;

-- What a row said when it was stored: one that was changed since does not fit it and is no evidence (see gate_evidence.sql).
ALTER TABLE eval_answers ADD COLUMN digest VARCHAR;
ALTER TABLE eval_scores ADD COLUMN digest VARCHAR;
UPDATE eval_answers SET digest = sha256(concat_ws(chr(31), id, prompt, response));
UPDATE eval_scores
SET digest = sha256(concat_ws(chr(31), answer_id, scorer, scorer_version, scores::VARCHAR, coalesce(outcome::VARCHAR, 'null')));

-- grain: one thing that one person said of one decision (approved, refused, overridden)
CREATE TABLE gate_verdicts (
    id VARCHAR, decision_id VARCHAR, night_id VARCHAR, release_id VARCHAR, verdict VARCHAR, actor VARCHAR, reason VARCHAR,
    decided_at TIMESTAMP
);

-- Decisions that a person has to approve: said to wait, and nobody has answered since.
CREATE VIEW waiting_approvals AS
SELECT release_id, night_id, recorded_at FROM release_events AS waits
WHERE event = 'waits_for_approval' AND NOT EXISTS (
    SELECT 1 FROM gate_verdicts WHERE gate_verdicts.release_id = waits.release_id AND gate_verdicts.night_id = waits.night_id
);
