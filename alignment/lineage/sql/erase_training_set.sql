-- Purpose: whether the training set of a night holds a pair of the person.
-- Parameters: night VARCHAR; reads the temporary table `doomed`.
-- Grain: at most one row.
SELECT 1
FROM pair_sets
SEMI JOIN doomed ON doomed.table_name = 'pair_sets' AND doomed.id = pair_sets.id
WHERE night_id = $night
LIMIT 1;
