-- Purpose: people's verdicts on one review item so far, oldest first.
-- Parameters: $item.
-- Grain: one verdict event.
SELECT reviewer, verdict, edited_answer, note, left_answer, decided_at
FROM verdicts
WHERE item_id = $item
ORDER BY coalesce(seq, 0), decided_at, id
