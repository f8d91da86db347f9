-- Purpose: the exchanges of a night's selection, and those of earlier nights that people have decided since.
-- Parameters: night_id VARCHAR.
-- Grain: one exchange and principle, in the order of selection.
SELECT
    selections.interaction_id AS id, side, category, principle_id, conversation_id, user_id, created_at, model,
    messages::VARCHAR AS messages, response, selections.night_id = $night_id AS tonight,
    EXISTS (
        SELECT 1 FROM signals
        WHERE signals.interaction_id = selections.interaction_id
            AND ((kind = 'thumbs' AND value = 'down') OR kind IN ('regenerated', 'edit'))
    ) AS complained,
    EXISTS (
        SELECT 1 FROM detections
        WHERE detections.interaction_id = selections.interaction_id AND detector = 'refusal' AND flagged
    ) AS declined
FROM selections
JOIN trainable ON trainable.id = selections.interaction_id
WHERE selections.night_id = $night_id
    OR selections.interaction_id IN (
        SELECT interaction_id FROM review_items JOIN latest_verdicts ON latest_verdicts.item_id = review_items.id
    )
ORDER BY tonight DESC, position, selections.id;
