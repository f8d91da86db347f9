-- Purpose: who decided an item, or another item about the same exchange, since the item was shown.
-- Parameters: item VARCHAR, seen BIGINT (the last verdict known when the item was shown).
-- Grain: at most one verdict, the last valid one; skips and undone verdicts decide nothing.
WITH shown AS (SELECT id, kind, interaction_id FROM review_items WHERE id = $item)
SELECT spoken.reviewer, spoken.verdict, spoken.decided_at
FROM reviewer_verdicts AS spoken
JOIN review_items AS items ON items.id = spoken.item_id
JOIN shown ON items.id = shown.id OR (
    items.interaction_id = shown.interaction_id AND items.kind <> 'pair_review' AND shown.kind <> 'pair_review'
)
WHERE spoken.verdict <> 'skip' AND coalesce(spoken.seq, 0) > $seen
ORDER BY spoken.seq DESC
LIMIT 1
