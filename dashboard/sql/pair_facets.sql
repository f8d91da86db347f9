-- Purpose: the values that one night's pairs can be filtered by.
-- Parameters: $night.
-- Grain: one combination of split, side, category, labelers, log source and deciding principles.
SELECT
    pair_sets.split, pairs.side, pairs.category, array_to_string(from_json(pairs.labelers, '["VARCHAR"]'), ' + ') AS labelers,
    files.source, from_json(pairs.principle_ids, '["VARCHAR"]') AS principles, count(*) AS pairs
FROM pair_sets
JOIN pairs ON pairs.id = pair_sets.pair_id
LEFT JOIN interactions ON interactions.id = pairs.interaction_id
LEFT JOIN (SELECT id, any_value(source) AS source FROM source_files GROUP BY id) AS files ON files.id = interactions.source_file
WHERE pair_sets.night_id = $night
GROUP BY ALL
ORDER BY ALL
