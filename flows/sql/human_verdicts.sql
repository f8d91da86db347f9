-- Purpose: people's decisions on labelled exchanges, with the judgement that each person saw.
-- Parameters: none.
-- Grain: one exchange; its last verdict counts, a skip decides nothing, and `disputed` marks where people differ.
SELECT
    interaction_id, CASE WHEN disputed THEN 'disputed' ELSE verdict END AS verdict, edited_answer,
    review_items.detail ->> 'judgement_id' AS judgement_id
FROM review_items
JOIN latest_verdicts ON latest_verdicts.item_id = review_items.id
WHERE interaction_id IS NOT NULL AND verdict <> 'skip' AND kind IS DISTINCT FROM 'pair_review'
QUALIFY row_number() OVER (
    PARTITION BY interaction_id ORDER BY coalesce(latest_verdicts.seq, 0) DESC, decided_at DESC, latest_verdicts.id DESC
) = 1;
