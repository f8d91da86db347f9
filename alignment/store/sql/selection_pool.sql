-- Purpose: exchanges that may be labelled tonight, with what the detectors and the users said of them.
-- Parameters: max_chars BIGINT.
-- Grain: one trainable, moderated exchange that no earlier night selected.
WITH said AS (
    SELECT
        interaction_id,
        max(score) FILTER (detector = 'harmful_request') AS harmful_request,
        max(label) FILTER (detector = 'harmful_request') AS category,
        max(score) FILTER (detector = 'toxicity') AS toxicity,
        max(score) FILTER (detector = 'refusal') AS refusal
    FROM detections
    GROUP BY interaction_id
),
complained AS (
    SELECT DISTINCT interaction_id FROM signals
    WHERE (kind = 'thumbs' AND value = 'down') OR kind IN ('regenerated', 'edit')
)
SELECT
    trainable.id, conversation_id, user_id, created_at, model, messages::VARCHAR AS messages, response,
    harmful_request, category, toxicity, refusal, complained.interaction_id IS NOT NULL AS complained
FROM trainable
JOIN said ON said.interaction_id = trainable.id
LEFT JOIN complained ON complained.interaction_id = trainable.id
ANTI JOIN selections ON selections.interaction_id = trainable.id
WHERE length(trainable.messages::VARCHAR) <= $max_chars
ORDER BY trainable.id;
