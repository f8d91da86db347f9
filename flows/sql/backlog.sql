-- Purpose: whether an exchange was read that no detector has looked at; a seed is none.
-- Parameters: none.
-- Grain: at most one row.
SELECT 1
FROM interactions
ANTI JOIN seeds USING (id)
ANTI JOIN detections ON interaction_id = id
LIMIT 1;
