-- Purpose: the values that disagreements can be filtered by.
-- Parameters: none.
-- Grain: one combination of kind, side and reviewer with a verdict in force from that person.
SELECT DISTINCT items.kind, items.detail ->> 'side' AS side, spoken.reviewer
FROM reviewer_verdicts AS spoken
JOIN review_items AS items ON items.id = spoken.item_id
WHERE spoken.verdict <> 'skip'
ORDER BY ALL
