-- Several labelers vote on a comparison; each is measured once a version on the project's calibration set.

-- grain: one version of one labeler or detector, measured. Rates are in 0..1; NULL where there is nothing to measure.
CREATE TABLE calibrations (
    id VARCHAR, kind VARCHAR, labeler VARCHAR, labeler_version VARCHAR, set_version VARCHAR, n INTEGER, sensitivity DOUBLE,
    specificity DOUBLE, n_harm INTEGER, n_helpful INTEGER, wrong_harm INTEGER, wrong_helpful INTEGER, ties INTEGER, unscored INTEGER, order_consistency DOUBLE,
    attack_success DOUBLE, attacks INTEGER, measured_at TIMESTAMP
);
-- grain: one labeler's word on one comparison; a later real vote stands beside an earlier `unscored` one
CREATE TABLE votes (
    id VARCHAR, night_id VARCHAR, interaction_id VARCHAR, judgement_id VARCHAR, labeler VARCHAR, labeler_version VARCHAR,
    first_id VARCHAR, second_id VARCHAR, verdict VARCHAR, margin DOUBLE, detail JSON, created_at TIMESTAMP
);
-- grain: one labeler in one night: whether it voted, and why not
CREATE TABLE labeler_states (
    id VARCHAR, night_id VARCHAR, labeler VARCHAR, labeler_version VARCHAR, active BOOLEAN, reason VARCHAR, recorded_at TIMESTAMP
);
