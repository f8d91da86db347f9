-- Purpose: the exchanges that a night selected, and those of earlier nights that people have decided since.
-- Parameters: night_id VARCHAR, refusal DOUBLE (the score from which an answer counts as declining).
-- Grain: one exchange and its principle, in the order of selection; tonight's selection comes before earlier ones.
WITH chosen AS (
    SELECT *, night_id = $night_id AS tonight
    FROM selections
    WHERE night_id = $night_id
        OR interaction_id IN (SELECT interaction_id FROM review_items JOIN latest_verdicts ON latest_verdicts.item_id = review_items.id)
    QUALIFY row_number() OVER (PARTITION BY interaction_id ORDER BY tonight DESC, night_id DESC) = 1
)
SELECT
    chosen.interaction_id AS id, side, category, principle_id, conversation_id, user_id, created_at, model,
    messages::VARCHAR AS messages, response, tonight,
    EXISTS (
        SELECT 1 FROM signals
        WHERE signals.interaction_id = chosen.interaction_id
            AND ((kind = 'thumbs' AND value = 'down') OR kind IN ('regenerated', 'edit'))
    ) AS complained,
    coalesce((
        SELECT arg_max(score, detected_at) FROM detections
        WHERE detections.interaction_id = chosen.interaction_id AND detector = 'refusal'
    ) >= $refusal, false) AS declined
FROM chosen
JOIN trainable ON trainable.id = chosen.interaction_id
ORDER BY tonight DESC, position, chosen.id;
