-- Purpose: who has open items on screen.
-- Parameters: kind VARCHAR (NULL: any), after TIMESTAMP and before TIMESTAMP (holds recorded between them are alive).
-- Grain: one reviewer.
SELECT held.reviewer, count(*) AS items
FROM open_reviews AS items
JOIN review_holders AS held ON held.item_id = items.id
WHERE held.event <> 'release' AND held.recorded_at > $after AND held.recorded_at < $before
    AND ($kind::VARCHAR IS NULL OR items.kind = $kind)
GROUP BY held.reviewer
ORDER BY items DESC, held.reviewer
