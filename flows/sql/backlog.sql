-- Purpose: whether any exchange was read that no detector has looked at; seeds do not count.
-- Parameters: none.
-- Grain: at most one row.
SELECT 1
FROM interactions
ANTI JOIN seeds USING (id)
ANTI JOIN detections ON interaction_id = id
LIMIT 1;
