-- Purpose: what each source delivered in one ingest run, in numbers; a source that delivered nothing has a row of zeros.
-- Parameters: since TIMESTAMP, when the run began; sources VARCHAR[], those that it looked for (NULL: all that ever delivered).
-- Grain: one source. Shares are of the exchanges stored, NULL without any; `flagged` as the dashboard counts it.
WITH files AS (
    -- A file that grew has a row for each part that was read.
    SELECT id, coalesce(any_value(source), 'logs') AS source FROM source_files GROUP BY id
),
wanted AS (
    SELECT DISTINCT source FROM files WHERE $sources::VARCHAR[] IS NULL OR list_contains($sources::VARCHAR[], source)
),
delivered AS (
    SELECT coalesce(source, 'logs') AS source, sum(rows_read) AS total, sum(rows_quarantined) AS quarantined
    FROM source_files
    WHERE ingested_at >= $since
    GROUP BY ALL
),
signalled AS (
    SELECT DISTINCT interaction_id FROM signals WHERE kind <> 'no_consent'
),
latest AS (
    SELECT interaction_id, detector, arg_max(flagged, detected_at) AS hit
    FROM detections
    WHERE detected_at >= $since AND detector NOT IN ('refusal', 'pii')
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
    LEFT JOIN signalled ON signalled.interaction_id = interactions.id
    LEFT JOIN harmful ON harmful.interaction_id = interactions.id
    WHERE interactions.ingested_at >= $since
    GROUP BY ALL
)
SELECT
    source, coalesce(total, 0)::BIGINT AS total, coalesce(stored, 0) AS stored, coalesce(quarantined, 0)::BIGINT AS quarantined,
    no_user_id, no_conversation_id, no_model, no_signals, flagged
FROM wanted
LEFT JOIN delivered USING (source)
LEFT JOIN exchanges USING (source)
ORDER BY source;
