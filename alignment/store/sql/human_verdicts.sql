-- Purpose: what people decided about labelled exchanges.
-- Parameters: none.
-- Grain: one exchange; the last verdict on it stands.
SELECT interaction_id, verdict, edited_answer
FROM review_items
JOIN latest_verdicts ON latest_verdicts.item_id = review_items.id
WHERE interaction_id IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY interaction_id ORDER BY decided_at DESC, latest_verdicts.id DESC) = 1;
