-- What the first stage of the cascade cleared, and what its audits found.

-- grain: one exchange that the first stage of one version cleared in one run. score: its risk, in 0..1. It counts once the run's audit held.
CREATE TABLE clearings (id VARCHAR, interaction_id VARCHAR, run VARCHAR, version VARCHAR, score DOUBLE, cleared_at TIMESTAMP);

-- grain: one run of the cascade. exchanges = passed on + cleared; of those cleared, `audited` were scored in full and `missed` were flagged.
-- low, high: 95% interval of the share missed. allowed: the largest `high` at which the clearings count (`held`).
CREATE TABLE cascade_audits (
    id VARCHAR, version VARCHAR, exchanges BIGINT, passed BIGINT, flagged BIGINT, cleared BIGINT, audited BIGINT, missed BIGINT,
    low DOUBLE, high DOUBLE, allowed DOUBLE, held BOOLEAN, recorded_at TIMESTAMP
);

-- Cleared and never scored in full: nobody knows what the detectors would say.
CREATE VIEW cleared AS
SELECT interaction_id, arg_max(version, cleared_at) AS version, arg_max(score, cleared_at) AS score, max(cleared_at) AS cleared_at
FROM clearings
SEMI JOIN (SELECT id FROM cascade_audits WHERE held) AS trusted ON trusted.id = clearings.run
ANTI JOIN (SELECT interaction_id FROM detections WHERE detector = 'harmful_request') AS scored USING (interaction_id)
GROUP BY interaction_id;
