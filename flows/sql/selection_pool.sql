-- Purpose: exchanges that may be labelled tonight, with what detectors and users said about them.
-- Parameters: max_chars BIGINT, guards VARCHAR[] ('detector@version' of the configured guards), harmless DOUBLE (the score below which a
--   request is taught as harmless).
-- Grain: one trainable, moderated exchange that no night has built pairs from. Among several versions of a detector, the last counts.
--   A request that a guard flags has at least the guard's score, under the guard's category. A flag without a category takes the bundled
--   detector's if that scores at least `harmless`; otherwise the exchange is in doubt. So it is if only the answer is flagged, or if one
--   of the guards has not scored it.
WITH guarded AS (
    SELECT interaction_id, bool_or(flagged) AS flagged, count(DISTINCT detector || '@' || version) = len($guards::VARCHAR[]) AS covered
    FROM detections
    WHERE list_contains($guards::VARCHAR[], detector || '@' || version)
    GROUP BY interaction_id
),
requested AS (
    SELECT interaction_id, max(request_score) AS score, arg_max(request_category, request_score) AS category
    FROM guard_answers
    WHERE list_contains($guards::VARCHAR[], guard || '@' || version)
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
            WHEN requested.score IS NOT NULL AND (requested.category IS NOT NULL OR harmful_request >= $harmless)
                THEN greatest(harmful_request, requested.score)
            WHEN guarded.flagged OR NOT coalesce(guarded.covered, len($guards::VARCHAR[]) = 0) THEN greatest(harmful_request, $harmless)
            ELSE harmful_request
        END AS harmful_request,
        CASE WHEN requested.score > harmful_request THEN coalesce(requested.category, bundled.category) ELSE bundled.category END AS category
    FROM bundled
    LEFT JOIN guarded USING (interaction_id)
    LEFT JOIN requested USING (interaction_id)
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
