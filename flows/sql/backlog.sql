-- Purpose: whether any exchange was read that was neither scored nor cleared; seeds do not count.
-- Parameters: none.
-- Grain: at most one row.
SELECT 1
FROM interactions
ANTI JOIN seeds USING (id)
ANTI JOIN (SELECT interaction_id FROM detections WHERE detector = 'harmful_request') AS scored ON scored.interaction_id = id
ANTI JOIN cleared ON cleared.interaction_id = id
LIMIT 1;
