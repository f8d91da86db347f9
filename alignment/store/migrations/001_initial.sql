-- The whole loop's evidence. Ids are made by the client from content; rows are appended, never updated.
-- Portable on purpose: no keys, sequences, ON CONFLICT or RETURNING, so that the same SQL runs on a file and on a shared warehouse.
-- Times are UTC. Text is redacted before it gets here.

CREATE TABLE schema_migrations (version INTEGER, name VARCHAR, applied_at TIMESTAMP);

-- Data in ------------------------------------------------------------------------------------------------------------
-- grain: one delivery of one log file, as it was when it was read
CREATE TABLE source_files (
    id VARCHAR, path VARCHAR, bytes BIGINT, sha256 VARCHAR, rows_read BIGINT, rows_stored BIGINT, rows_duplicate BIGINT,
    rows_quarantined BIGINT, rows_redacted BIGINT, seconds DOUBLE, ingested_at TIMESTAMP
);
-- grain: one exchange
CREATE TABLE interactions (
    id VARCHAR, source_file VARCHAR, line_number BIGINT, conversation_id VARCHAR, session_id VARCHAR, user_id VARCHAR,
    created_at TIMESTAMP, model VARCHAR, messages JSON, prompt VARCHAR, response VARCHAR, consent BOOLEAN, pii JSON,
    ingested_at TIMESTAMP
);
-- grain: one signal that a user gave about one exchange; late signals arrive as re-delivered lines
CREATE TABLE signals (
    id VARCHAR, interaction_id VARCHAR, kind VARCHAR, value VARCHAR, recorded_at TIMESTAMP
);
-- grain: one line that could not be used
CREATE TABLE quarantine (
    id VARCHAR, source_file VARCHAR, line_number BIGINT, reason VARCHAR, detail VARCHAR, raw VARCHAR, quarantined_at TIMESTAMP
);
-- grain: one expectation of one suite on one batch
CREATE TABLE check_results (
    id VARCHAR, suite VARCHAR, batch VARCHAR, expectation VARCHAR, column_name VARCHAR, success BOOLEAN, severity VARCHAR,
    rows_checked BIGINT, rows_failed BIGINT, detail JSON, checked_at TIMESTAMP
);

-- Moderation and labelling -------------------------------------------------------------------------------------------
-- grain: one detector version on one exchange
CREATE TABLE detections (
    interaction_id VARCHAR, detector VARCHAR, version VARCHAR, score DOUBLE, flagged BOOLEAN, label VARCHAR, detected_at TIMESTAMP
);
-- grain: one exchange that a night chose to label
CREATE TABLE selections (
    id VARCHAR, night_id VARCHAR, interaction_id VARCHAR, side VARCHAR, category VARCHAR, principle_id VARCHAR, position INTEGER
);
CREATE TABLE candidates (
    id VARCHAR, interaction_id VARCHAR, kind VARCHAR, text VARCHAR, model VARCHAR, principle_id VARCHAR, detail JSON,
    created_at TIMESTAMP
);
CREATE TABLE judgements (
    id VARCHAR, interaction_id VARCHAR, labeler VARCHAR, labeler_version VARCHAR, principle_ids JSON, chosen_id VARCHAR,
    rejected_id VARCHAR, verdict VARCHAR, judge_margin DOUBLE, scores JSON, created_at TIMESTAMP
);
CREATE TABLE pairs (
    id VARCHAR, interaction_id VARCHAR, user_id VARCHAR, created_at TIMESTAMP, side VARCHAR, category VARCHAR, messages JSON,
    chosen VARCHAR, rejected VARCHAR, chosen_kind VARCHAR, rejected_kind VARCHAR, labelers JSON, principle_ids JSON,
    judge_margin DOUBLE, cluster_id VARCHAR, split VARCHAR, built_at TIMESTAMP
);
-- grain: one pair in the training set of one night
CREATE TABLE pair_sets (id VARCHAR, night_id VARCHAR, pair_id VARCHAR, split VARCHAR);
-- grain: one selected prompt or built pair that was kept out, and why
CREATE TABLE pair_exclusions (id VARCHAR, night_id VARCHAR, interaction_id VARCHAR, reason VARCHAR, detail VARCHAR);

-- People -------------------------------------------------------------------------------------------------------------
CREATE TABLE review_items (
    id VARCHAR, kind VARCHAR, reason VARCHAR, interaction_id VARCHAR, prompt VARCHAR, answer_a VARCHAR, answer_b VARCHAR,
    proposal VARCHAR, detail JSON, priority DOUBLE, created_at TIMESTAMP
);
CREATE TABLE verdicts (
    id VARCHAR, item_id VARCHAR, reviewer VARCHAR, verdict VARCHAR, edited_answer VARCHAR, note VARCHAR, decided_at TIMESTAMP
);

-- Training, evaluation, release --------------------------------------------------------------------------------------
CREATE TABLE training_runs (
    id VARCHAR, night_id VARCHAR, base VARCHAR, release_id VARCHAR, config JSON, summary JSON, seconds DOUBLE, finished_at TIMESTAMP
);
-- grain: one logged value of one step
CREATE TABLE training_metrics (run_id VARCHAR, step INTEGER, name VARCHAR, value DOUBLE);
-- grain: one answer of one model to one suite prompt under one way of sampling
CREATE TABLE eval_answers (
    id VARCHAR, model_id VARCHAR, suite VARCHAR, suite_version VARCHAR, prompt_id VARCHAR, prompt VARCHAR, cluster VARCHAR,
    category VARCHAR, response VARCHAR, created_at TIMESTAMP
);
CREATE TABLE eval_scores (
    id VARCHAR, answer_id VARCHAR, scorer VARCHAR, scorer_version VARCHAR, scores JSON, outcome INTEGER, scored_at TIMESTAMP
);
CREATE TABLE gate_decisions (
    id VARCHAR, night_id VARCHAR, champion VARCHAR, challenger VARCHAR, decision VARCHAR, reasons JSON, decided_at TIMESTAMP
);
CREATE TABLE gate_metrics (
    id VARCHAR, decision_id VARCHAR, name VARCHAR, suite VARCHAR, champion DOUBLE, challenger DOUBLE, diff DOUBLE, low DOUBLE,
    high DOUBLE, n INTEGER, unscored INTEGER, worse INTEGER, better INTEGER, p_value DOUBLE, rule VARCHAR, margin DOUBLE,
    status VARCHAR, reason VARCHAR, detectable DOUBLE
);
-- grain: one thing that happened to one release (registered, promoted, blocked, rolled_back, quarantined, superseded)
CREATE TABLE release_events (
    id VARCHAR, release_id VARCHAR, event VARCHAR, actor VARCHAR, reason VARCHAR, night_id VARCHAR, recorded_at TIMESTAMP
);

-- Drift and the night itself -----------------------------------------------------------------------------------------
CREATE TABLE drift_results (
    id VARCHAR, night_id VARCHAR, metric VARCHAR, test VARCHAR, baseline DOUBLE, current DOUBLE, effect DOUBLE, p_value DOUBLE,
    adjusted_p DOUBLE, alarm BOOLEAN, baseline_n INTEGER, current_n INTEGER, baseline_start TIMESTAMP, baseline_end TIMESTAMP,
    current_start TIMESTAMP, current_end TIMESTAMP, recorded_at TIMESTAMP
);
-- grain: one event of one night (started, finished)
CREATE TABLE night_events (id VARCHAR, night_id VARCHAR, event VARCHAR, summary JSON, recorded_at TIMESTAMP);
-- grain: one stage of one night, each time it ran
CREATE TABLE stage_runs (
    id VARCHAR, night_id VARCHAR, stage VARCHAR, seconds DOUBLE, counts JSON, finished_at TIMESTAMP
);

-- Every reader of training data reads here: what may be trained on.
CREATE VIEW trainable AS SELECT * FROM interactions WHERE consent;

-- The last verdict a reviewer gave on an item stands.
CREATE VIEW latest_verdicts AS
SELECT * FROM verdicts
QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY decided_at DESC, id DESC) = 1;

-- A skip decides nothing: the item stays open.
CREATE VIEW open_reviews AS
SELECT * FROM review_items
ANTI JOIN (SELECT item_id FROM latest_verdicts WHERE verdict <> 'skip') AS decided ON decided.item_id = review_items.id;
