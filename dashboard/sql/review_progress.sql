-- Purpose: the progress of the review, by kind.
-- Parameters: none.
-- Grain: one kind of review item. Questions replaced by another one are not counted.
SELECT
    items.kind,
    count(*) AS items,
    count_if(latest.verdict IS NOT NULL AND latest.verdict <> 'skip') AS decided,
    count_if(coalesce(latest.verdict = 'skip', false)) AS skipped,
    count_if(coalesce(latest.verdict = 'agree', false)) AS agree,
    count_if(coalesce(latest.verdict = 'flip', false)) AS flip,
    count_if(coalesce(latest.verdict = 'edit', false)) AS edit,
    count_if(coalesce(latest.verdict = 'both_bad', false)) AS both_bad,
    count_if(coalesce(latest.verdict = 'not_harmful', false)) AS not_harmful,
    count_if(coalesce(latest.disputed, false)) AS disputed
FROM review_items AS items
LEFT JOIN latest_verdicts AS latest ON latest.item_id = items.id
WHERE latest.verdict <> 'skip' OR items.id IN (SELECT id FROM open_reviews)
GROUP BY items.kind
ORDER BY items.kind
