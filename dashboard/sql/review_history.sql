-- Purpose: the verdicts people gave, newest first, with the start of the prompt each is about.
-- Parameters: $kind or NULL for all; $limit.
-- Grain: one verdict event; `stands` says whether it is the one that stands on its item, `disputed` that people differ there.
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
