-- Purpose: what waits for a person. A skip decides nothing: a skipped item comes back after everything nobody has looked at.
-- Parameters: $kind or NULL for all; $limit.
-- Grain: one review item, in the order it is to be shown (highest priority first).
SELECT items.id, items.kind, latest.verdict IS NOT NULL AS skipped
FROM open_reviews AS items
LEFT JOIN latest_verdicts AS latest ON latest.item_id = items.id
WHERE $kind::VARCHAR IS NULL OR items.kind = $kind
ORDER BY latest.decided_at NULLS FIRST, items.priority DESC NULLS LAST, items.created_at, items.id
LIMIT $limit
