-- Purpose: how many pairs a night's set holds.
-- Parameters: night VARCHAR.
-- Grain: one split and side; the side is NULL for pairs no longer stored.
SELECT pair_sets.split, side, count(*) AS n
FROM pair_sets
LEFT JOIN pairs ON pairs.id = pair_id
WHERE night_id = $night
GROUP BY ALL
ORDER BY ALL;
