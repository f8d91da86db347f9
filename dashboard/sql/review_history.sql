-- Purpose: people's verdicts, newest first, with the start of the prompt of each.
-- Parameters: $kind or NULL for all; $limit.
-- Grain: one verdict event; `stands` tells whether it is the item's verdict in force, `disputed` whether people differ on the item.
SELECT
    verdicts.decided_at, verdicts.reviewer, verdicts.verdict, verdicts.note, verdicts.edited_answer, verdicts.item_id, verdicts.left_answer,
    items.kind, items.proposal, left(items.prompt, 200) AS prompt,
    latest.id = verdicts.id AS stands, latest.disputed
FROM verdicts
LEFT JOIN review_items AS items ON items.id = verdicts.item_id
LEFT JOIN latest_verdicts AS latest ON latest.item_id = verdicts.item_id
WHERE $kind::VARCHAR IS NULL OR items.kind = $kind
ORDER BY coalesce(verdicts.seq, 0) DESC, verdicts.decided_at DESC, verdicts.id DESC
LIMIT $limit
