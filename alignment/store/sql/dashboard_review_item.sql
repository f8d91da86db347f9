-- Purpose: one review item with all that a reviewer needs to see.
-- Parameters: $item.
-- Grain: at most one row.
SELECT id, kind, reason, interaction_id, prompt, answer_a, answer_b, proposal, detail, priority, created_at
FROM review_items
WHERE id = $item
LIMIT 1
