-- Purpose: the pairs that one night trained on or held out, by side.
-- Parameters: $night.
-- Grain: one side and split.
SELECT pairs.side, pair_sets.split, count(*) AS pairs
FROM pair_sets
JOIN pairs ON pairs.id = pair_sets.pair_id
WHERE pair_sets.night_id = $night
GROUP BY ALL
ORDER BY ALL
