-- Purpose: the training set of one night in numbers.
-- Parameters: night_id VARCHAR.
-- Grain: one row; smaller_side is the smaller side's share of the pairs, NULL without pairs.
WITH counted AS (
    SELECT count(*) AS total, count_if(side = 'harm') AS harm
    FROM pair_sets JOIN pairs ON pairs.id = pair_id
    WHERE night_id = $night_id AND pair_sets.split = 'train'
)
SELECT total, total AS stored, CASE WHEN total > 0 THEN least(harm, total - harm) / total END AS smaller_side FROM counted;
