-- Purpose: exchanges that may be labelled tonight, with what detectors and users said about them.
-- Parameters: max_chars BIGINT, guards VARCHAR[] ('detector@version' of the configured guards), harmless DOUBLE (the score below which a
--   request is taught as harmless).
-- Grain: one trainable, moderated exchange that no night has built pairs from. Among several versions of a detector, the last counts.
--   What a guard flags has at least the guard's score: under the guard's category, or under the bundled detector's if that one doubts,
--   too; without any category it is in doubt. What no guard has scored is not harmless, either.
WITH guarded AS (
    SELECT interaction_id, max(score) FILTER (flagged) AS score, arg_max(label, score) FILTER (flagged) AS category
    FROM detections
    WHERE list_contains($guards::VARCHAR[], detector || '@' || version)
    GROUP BY interaction_id
),
bundled AS (
    SELECT
        interaction_id,
        arg_max(score, detected_at) FILTER (detector = 'harmful_request') AS harmful_request,
        arg_max(label, detected_at) FILTER (detector = 'harmful_request') AS category,
        arg_max(score, detected_at) FILTER (detector = 'toxicity') AS toxicity,
        arg_max(score, detected_at) FILTER (detector = 'refusal') AS refusal
    FROM detections
    GROUP BY interaction_id
),
said AS (
    SELECT
        bundled.interaction_id, toxicity, refusal,
        CASE
            WHEN len($guards::VARCHAR[]) > 0 AND guarded.interaction_id IS NULL THEN greatest(harmful_request, $harmless)
            WHEN guarded.score IS NULL THEN harmful_request
            WHEN guarded.category IS NULL AND harmful_request < $harmless THEN $harmless
            ELSE greatest(harmful_request, guarded.score)
        END AS harmful_request,
        CASE WHEN guarded.score > harmful_request THEN coalesce(guarded.category, bundled.category) ELSE bundled.category END AS category
    FROM bundled
    LEFT JOIN guarded USING (interaction_id)
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
