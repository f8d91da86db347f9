-- Purpose: people's rulings on existing pairs, with the reviewers' verdict on each pair sent to review.
-- Parameters: none.
-- Grain: one exchange; `verdict` is NULL while a review waits, and `disputed` if people differ.
SELECT
    events.interaction_id, events.pair_id, events.action, events.actor, events.reason, events.recorded_at,
    CASE WHEN said.disputed THEN 'disputed' WHEN said.verdict = 'skip' THEN NULL ELSE said.verdict END AS verdict, said.edited_answer
FROM standing_pair_events AS events
LEFT JOIN latest_verdicts AS said ON events.action = 'review' AND said.item_id = events.id
WHERE events.action <> 'restore'
ORDER BY events.interaction_id
