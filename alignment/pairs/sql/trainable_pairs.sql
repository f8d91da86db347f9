-- Purpose: the pairs whose logs may be trained on.
-- Parameters: night_id VARCHAR (NULL: all pairs; else those in that night's training set).
-- Grain: one pair.
SELECT pairs.* EXCLUDE (built_at)
FROM pairs
SEMI JOIN trainable ON trainable.id = pairs.interaction_id
WHERE $night_id::VARCHAR IS NULL OR pairs.id IN (SELECT pair_id FROM pair_sets WHERE night_id = $night_id)
ORDER BY pairs.id;
