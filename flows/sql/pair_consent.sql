-- Purpose: which of the given pairs may be trained on now; a pair unknown to the store lacks consent.
-- Parameters: ids VARCHAR[].
-- Grain: one pair.
SELECT handed.id, trainable.id IS NOT NULL AS consent
FROM (SELECT DISTINCT unnest($ids::VARCHAR[]) AS id) AS handed
LEFT JOIN (SELECT id, any_value(interaction_id) AS interaction_id FROM pairs GROUP BY id) AS pairs ON pairs.id = handed.id
LEFT JOIN trainable ON trainable.id = pairs.interaction_id
ORDER BY handed.id;
