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
-- grain: one exchange to read for one signal of an alarm, the strongest first
CREATE TABLE drift_examples (id VARCHAR, alarm_id VARCHAR, interaction_id VARCHAR, position INTEGER);

-- Real traffic of some days, `until` not included. A day that drift has measured stays as it was known then: exchanges that came later are
-- left out, since the day itself was compared without them. `closed_at`: when that was, infinity for days that are still open. A day
-- without traffic is not measured; the next one closes it.
CREATE MACRO traffic(since, until) AS TABLE
WITH closed AS (
    SELECT day, min(recorded_at) OVER (ORDER BY day DESC) AS closed_at
    FROM drift_days
    WHERE signal = 'all'
),
dated AS (
    SELECT
        id, created_at, created_at::DATE AS day, ingested_at, source_file, model, prompt, response,
        CASE
            WHEN user_id <> '' THEN 'user ' || user_id
            WHEN conversation_id <> '' THEN 'conversation ' || conversation_id
            ELSE 'exchange ' || id
        END AS asker
    FROM interactions
    ANTI JOIN seeds USING (id)
    WHERE created_at >= since AND created_at < until
)
SELECT dated.*, coalesce(closed_at, TIMESTAMP 'infinity') AS closed_at
FROM dated
ASOF LEFT JOIN closed ON dated.day <= closed.day
WHERE ingested_at IS NULL OR closed_at IS NULL OR ingested_at <= closed_at;

-- What drift compares, per exchange of `traffic`, as it was known when the day closed. NULL is no data: not moderated, not labelled. A
-- user's signals count if they came with their line: those that come later would make old days differ from new ones.
CREATE MACRO traffic_values(since, until) AS TABLE
WITH exchanges AS (SELECT * FROM traffic(since, until)),
answers AS (
    SELECT interaction_id, detector, flagged::INTEGER AS flagged, label, detected_at
    FROM detections
    JOIN exchanges ON exchanges.id = interaction_id
    WHERE detected_at IS NULL OR detected_at <= closed_at
),
said AS (
    SELECT
        interaction_id,
        arg_max(flagged, detected_at) FILTER (detector = 'harmful_request') AS harmful_request,
        arg_max(label, detected_at) FILTER (detector = 'harmful_request') AS category,
        arg_max(flagged, detected_at) FILTER (detector = 'harmful_answer') AS harmful_answer,
        arg_max(flagged, detected_at) FILTER (detector = 'toxicity') AS toxicity,
        arg_max(flagged, detected_at) FILTER (detector = 'refusal') AS refusal,
        arg_max(flagged, detected_at) FILTER (detector = 'pii') AS pii
    FROM answers
    GROUP BY interaction_id
),
guarded AS (
    SELECT interaction_id, max(flagged) AS guard
    FROM (
        SELECT interaction_id, arg_max(flagged, detected_at) AS flagged
        FROM answers
        WHERE starts_with(detector, 'guard:')
        GROUP BY interaction_id, detector
    )
    GROUP BY interaction_id
),
felt AS (
    SELECT
        interaction_id,
        max(((kind = 'thumbs' AND value = 'down') OR kind = 'regenerated')::INTEGER) AS complained,
        max((kind = 'thumbs' AND value = 'up')::INTEGER) AS praised
    FROM signals
    JOIN exchanges ON exchanges.id = interaction_id
    WHERE recorded_at <= least(ingested_at + INTERVAL 1 HOUR, closed_at)
    GROUP BY interaction_id
),
last_votes AS (
    SELECT interaction_id, arg_max(verdict, votes.created_at) AS verdict
    FROM votes
    JOIN exchanges ON exchanges.id = interaction_id
    WHERE votes.created_at IS NULL OR votes.created_at <= closed_at
    GROUP BY interaction_id, labeler
),
voted AS (
    SELECT interaction_id, (count(DISTINCT verdict) = 1)::INTEGER AS labeler_agreement
    FROM last_votes
    WHERE verdict <> 'unscored'
    GROUP BY interaction_id
    HAVING count(*) > 1
),
origin AS (SELECT id, any_value(source) AS source FROM source_files GROUP BY id)
SELECT
    exchanges.id,
    asker,
    created_at,
    day,
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
FROM exchanges
LEFT JOIN said ON said.interaction_id = exchanges.id
LEFT JOIN guarded ON guarded.interaction_id = exchanges.id
LEFT JOIN felt ON felt.interaction_id = exchanges.id
LEFT JOIN voted ON voted.interaction_id = exchanges.id
LEFT JOIN origin ON origin.id = exchanges.source_file;
