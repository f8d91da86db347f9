-- Purpose: the input of drift comparisons: per exchange, what detectors and users said about it.
-- Parameters: since TIMESTAMP.
-- Grain: one moderated or cleared exchange. Among several versions of a detector, the last one that ran counts. A cleared exchange counts as
--   not flagged: a cascade that is turned on must not look like drift, and audits bound how often this is wrong.
WITH said AS (
    SELECT
        interaction_id,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'harmful_request') AS harmful_request,
        arg_max(label, detected_at) FILTER (detector = 'harmful_request') AS category,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'refusal') AS refusal,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'toxicity') AS toxicity,
        arg_max(flagged::INTEGER, detected_at) FILTER (detector = 'pii') AS pii
    FROM detections
    GROUP BY interaction_id
    HAVING count(*) FILTER (detector = 'harmful_request') > 0
    UNION ALL
    SELECT interaction_id, 0, NULL, 0, 0, EXISTS (
        SELECT 1 FROM detections WHERE detections.interaction_id = cleared.interaction_id AND detector = 'pii' AND flagged
    )::INTEGER
    FROM cleared
),
complained AS (
    SELECT DISTINCT interaction_id FROM signals WHERE (kind = 'thumbs' AND value = 'down') OR kind = 'regenerated'
)
SELECT
    created_at, harmful_request, CASE WHEN harmful_request = 1 THEN category END AS category, refusal, toxicity, said.pii,
    (complained.interaction_id IS NOT NULL)::INTEGER AS complained,
    length(prompt) AS prompt_length, length(response) AS response_length
FROM interactions
JOIN said ON said.interaction_id = interactions.id
LEFT JOIN complained ON complained.interaction_id = interactions.id
WHERE created_at >= $since
ORDER BY created_at, id;
