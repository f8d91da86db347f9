-- Purpose: accepted pairs by labelers and by log source.
-- Parameters: none.
-- Grain: one combination of labelers, log source and side.
SELECT
    array_to_string(from_json(pairs.labelers, '["VARCHAR"]'), ' + ') AS labelers, coalesce(files.source, '') AS source, pairs.side, count(*) AS pairs
FROM pairs
LEFT JOIN interactions ON interactions.id = pairs.interaction_id
LEFT JOIN (SELECT id, any_value(source) AS source FROM source_files GROUP BY id) AS files ON files.id = interactions.source_file
GROUP BY ALL
ORDER BY 4 DESC, 1, 2, 3
