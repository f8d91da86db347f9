-- Purpose: exchanges that may be labelled tonight, with what detectors and users said about them.
-- Parameters: max_chars BIGINT.
-- Grain: one trainable, moderated exchange that no night has built pairs from. Among several versions of a detector, the last counts.
WITH said AS (
    SELECT
        interaction_id,
        arg_max(score, detected_at) FILTER (detector = 'harmful_request') AS harmful_request,
        arg_max(label, detected_at) FILTER (detector = 'harmful_request') AS category,
        arg_max(score, detected_at) FILTER (detector = 'toxicity') AS toxicity,
        arg_max(score, detected_at) FILTER (detector = 'refusal') AS refusal
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
ANTI JOIN (
        -- A night that was abandoned before building its pairs consumed no exchange.
    SELECT interaction_id FROM selections SEMI JOIN pair_sets ON pair_sets.night_id = selections.night_id
) AS used ON used.interaction_id = trainable.id
-- Longer ones had no second look for personal data (see unscanned.sql).
WHERE length(trainable.messages::VARCHAR) <= $max_chars AND length(trainable.messages::VARCHAR) + length(response) <= 6 * $max_chars
ORDER BY trainable.id;
