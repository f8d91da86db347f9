-- Purpose: one review item with everything a reviewer needs: the conversation it is about and the principle that decided it.
-- Parameters: $item.
-- Grain: at most one row; `messages` and `principles` are NULL where the item has no exchange or no judgement.
SELECT
    items.id, items.kind, items.reason, items.interaction_id, items.prompt, items.answer_a, items.answer_b, items.proposal, items.detail,
    items.priority, items.created_at, exchanges.messages::VARCHAR AS messages, coalesce(judgements.principle_ids, items.detail -> 'principle_ids')::VARCHAR AS principles
FROM review_items AS items
LEFT JOIN interactions AS exchanges ON exchanges.id = items.interaction_id
LEFT JOIN judgements ON judgements.id = (items.detail ->> 'judgement_id')
WHERE items.id = $item
LIMIT 1
