-- Purpose: the next undecided item that nobody has open. A skip decides nothing: skipped items come last.
-- Parameters: kind VARCHAR (NULL: any), after TIMESTAMP and before TIMESTAMP (a hold recorded between them is active).
-- Grain: at most one review item, the highest priority first.
SELECT items.id
FROM open_reviews AS items
LEFT JOIN latest_verdicts AS latest ON latest.item_id = items.id
LEFT JOIN review_holders AS held
    ON held.item_id = items.id AND held.event <> 'release' AND held.recorded_at > $after AND held.recorded_at < $before
WHERE held.id IS NULL AND ($kind::VARCHAR IS NULL OR items.kind = $kind)
ORDER BY
    latest.id IS NOT NULL, coalesce(latest.seq, 0), latest.decided_at NULLS FIRST, items.priority DESC NULLS LAST, items.created_at, items.id
LIMIT 1
