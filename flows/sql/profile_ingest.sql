-- Purpose: each source's delivery in numbers since its last comparison that did not stop; without a delivery, a row of zeros.
-- Parameters: since TIMESTAMP, when this run began, for sources that were never compared; run VARCHAR, its name; sources VARCHAR[], those
--   that it looked for (NULL: all that ever delivered).
-- Grain: one source. Shares are of the exchanges stored, NULL without any; `flagged` is counted as on the dashboard.
WITH files AS (
        -- A file that grew has one row per part read.
    SELECT id, coalesce(any_value(source), 'logs') AS source FROM source_files GROUP BY id
),
wanted AS (
    SELECT DISTINCT source FROM files WHERE $sources::VARCHAR[] IS NULL OR list_contains($sources::VARCHAR[], source)
),
passed AS (
    SELECT source, max(recorded_at) AS compared_at
    FROM batch_profiles
    WHERE kind = 'ingest' AND run <> $run
        AND NOT EXISTS (SELECT 1 FROM check_results WHERE batch = batch_profiles.id AND severity = 'stop' AND NOT success)
    GROUP BY source
),
began AS (
    SELECT source, coalesce(compared_at + INTERVAL 1 MICROSECOND, $since::TIMESTAMP) AS start FROM wanted LEFT JOIN passed USING (source)
),
delivered AS (
    SELECT began.source, sum(rows_read) AS total, sum(rows_quarantined) AS quarantined
    FROM source_files
    JOIN began ON began.source = coalesce(source_files.source, 'logs')
    WHERE ingested_at >= began.start
    GROUP BY ALL
),
signalled AS (
    SELECT DISTINCT interaction_id FROM signals WHERE kind NOT IN ('no_consent', 'not_for_training', 'tools', 'reasoning')
),
latest AS (
    SELECT interaction_id, detector, arg_max(flagged, detected_at) AS hit
    FROM detections
    WHERE detected_at >= (SELECT min(start) FROM began) AND detector NOT IN ('refusal', 'pii')
    GROUP BY ALL
),
harmful AS (
    SELECT interaction_id, bool_or(hit) AS hit FROM latest GROUP BY ALL
),
exchanges AS (
    SELECT
        files.source,
        count(*) AS stored,
        avg((coalesce(user_id, '') = '')::INTEGER) AS no_user_id,
        avg((coalesce(conversation_id, '') = '')::INTEGER) AS no_conversation_id,
        avg((coalesce(model, '') = '')::INTEGER) AS no_model,
        avg((signalled.interaction_id IS NULL)::INTEGER) AS no_signals,
        avg(hit::INTEGER) AS flagged
    FROM interactions
    JOIN files ON files.id = interactions.source_file
    JOIN began ON began.source = files.source
    LEFT JOIN signalled ON signalled.interaction_id = interactions.id
    LEFT JOIN harmful ON harmful.interaction_id = interactions.id
    WHERE interactions.ingested_at >= began.start
    GROUP BY ALL
)
SELECT
    source, coalesce(total, 0)::BIGINT AS total, coalesce(stored, 0) AS stored, coalesce(quarantined, 0)::BIGINT AS quarantined,
    no_user_id, no_conversation_id, no_model, no_signals, flagged
FROM wanted
LEFT JOIN delivered USING (source)
LEFT JOIN exchanges USING (source)
ORDER BY source;
