-- Drift by e-detectors: daily rates of users, which the pages read, and alarms with what drove them. `drift_results` keeps old reports.

-- grain: one signal on one closed day (UTC). Means are over users, each counted once a week: of that day (`rate`) and of the same weekday
-- before (`baseline`). `gains`: the log gains of the day's bets, up and then down. `value`: the signal's e-detector after the day; of the
-- signal 'all', the mean over all signals, which alarms at `drift.run_length`.
CREATE TABLE drift_days (
    id VARCHAR, night_id VARCHAR, day DATE, signal VARCHAR, rate DOUBLE, baseline DOUBLE, users INTEGER, baseline_users INTEGER,
    gains JSON, value DOUBLE, recorded_at TIMESTAMP
);
-- grain: one signal named by the alarm of one day. `effect` with its 95% interval is over the days from `since`; `slices`: which models and
-- sources moved most.
CREATE TABLE drift_alarms (
    id VARCHAR, night_id VARCHAR, day DATE, signal VARCHAR, direction VARCHAR, since DATE, rate DOUBLE, baseline DOUBLE, effect DOUBLE,
    low DOUBLE, high DOUBLE, users INTEGER, value DOUBLE, slices JSON, recorded_at TIMESTAMP
);
-- grain: one exchange that drove one signal of an alarm, the strongest first
CREATE TABLE drift_examples (id VARCHAR, alarm_id VARCHAR, interaction_id VARCHAR, position INTEGER);

-- What drift compares, per exchange of real traffic. NULL is no data: not moderated, not labelled. Signals count if they came with their
-- line: those that come later would make old days differ from new ones.
CREATE VIEW traffic_values AS
WITH said AS (
    SELECT
        interaction_id,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'harmful_request') AS harmful_request,
        arg_max(label, detected_at) FILTER (detector = 'harmful_request') AS category,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'harmful_answer') AS harmful_answer,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'toxicity') AS toxicity,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'refusal') AS refusal,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'pii') AS pii,
        max(flagged::INTEGER) FILTER (starts_with(detector, 'guard:')) AS guard
    FROM detections
    GROUP BY interaction_id
),
felt AS (
    SELECT
        interaction_id,
        max(((kind = 'thumbs' AND value = 'down') OR kind = 'regenerated')::INTEGER) AS complained,
        max((kind = 'thumbs' AND value = 'up')::INTEGER) AS praised
    FROM signals
    JOIN interactions ON interactions.id = interaction_id
    WHERE ingested_at IS NULL OR recorded_at <= ingested_at + INTERVAL 1 HOUR
    GROUP BY interaction_id
),
voted AS (
    SELECT interaction_id, (count(DISTINCT verdict) = 1)::INTEGER AS labeler_agreement
    FROM votes
    WHERE verdict <> 'unscored'
    GROUP BY interaction_id
    HAVING count(DISTINCT labeler) > 1
),
origin AS (SELECT id, any_value(source) AS source FROM source_files GROUP BY id)
SELECT
    interactions.id,
    CASE
        WHEN user_id <> '' THEN 'user ' || user_id
        WHEN conversation_id <> '' THEN 'conversation ' || conversation_id
        ELSE 'exchange ' || interactions.id
    END AS asker,
    created_at,
    created_at::DATE AS day,
    model,
    origin.source,
    prompt,
    harmful_request,
    CASE WHEN harmful_request = 1 THEN category END AS category,
    harmful_answer,
    toxicity,
    refusal,
    said.pii,
    guard,
    CASE WHEN said.interaction_id IS NOT NULL THEN coalesce(complained, 0) END AS complained,
    CASE WHEN said.interaction_id IS NOT NULL THEN coalesce(praised, 0) END AS praised,
    labeler_agreement,
    length(prompt) AS prompt_length,
    length(response) AS response_length
FROM interactions
ANTI JOIN seeds ON seeds.id = interactions.id
LEFT JOIN said ON said.interaction_id = interactions.id
LEFT JOIN felt ON felt.interaction_id = interactions.id
LEFT JOIN voted ON voted.interaction_id = interactions.id
LEFT JOIN origin ON origin.id = interactions.source_file;
