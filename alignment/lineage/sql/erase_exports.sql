-- Purpose: the exported data sets that held a pair to be erased.
-- Parameters: none; reads the table `doomed` made by erase_doomed.
-- Grain: one path.
SELECT DISTINCT path
FROM pair_exports
JOIN pairs ON pairs.built_at <= exported_at
JOIN doomed ON doomed.table_name = 'pairs' AND doomed.id = pairs.id
WHERE pair_exports.night_id IS NULL
    OR EXISTS (SELECT 1 FROM pair_sets WHERE pair_sets.pair_id = pairs.id AND pair_sets.night_id = pair_exports.night_id)
ORDER BY path;
