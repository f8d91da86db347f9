-- Purpose: what drift compares: per exchange, what detectors and users said of it.
-- Parameters: since TIMESTAMP.
-- Grain: one moderated exchange.
WITH said AS (
    SELECT
        interaction_id,
        max(flagged::INTEGER) FILTER (detector = 'harmful_request') AS harmful_request,
        max(label) FILTER (detector = 'harmful_request' AND flagged) AS category,
        max(flagged::INTEGER) FILTER (detector = 'refusal') AS refusal,
        max(flagged::INTEGER) FILTER (detector = 'toxicity') AS toxicity,
        max(flagged::INTEGER) FILTER (detector = 'pii') AS pii
    FROM detections
    GROUP BY interaction_id
),
complained AS (
    SELECT DISTINCT interaction_id FROM signals WHERE (kind = 'thumbs' AND value = 'down') OR kind = 'regenerated'
)
SELECT
    created_at, harmful_request, category, refusal, toxicity, said.pii,
    (complained.interaction_id IS NOT NULL)::INTEGER AS complained,
    length(prompt) AS prompt_length, length(response) AS response_length
FROM interactions
JOIN said ON said.interaction_id = interactions.id
LEFT JOIN complained ON complained.interaction_id = interactions.id
WHERE created_at >= $since
ORDER BY created_at, id;
