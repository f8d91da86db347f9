-- Purpose: exchanges that some detector, in its current version, has not seen, except seeds, which are labelled.
-- Parameters: versions VARCHAR[] ('detector@version').
-- Grain: one exchange.
SELECT id
FROM interactions
ANTI JOIN (
    SELECT interaction_id FROM detections
    WHERE list_contains($versions, detector || '@' || version)
    GROUP BY interaction_id
    HAVING count(DISTINCT detector) >= len($versions)
) AS seen ON seen.interaction_id = interactions.id
ANTI JOIN seeds USING (id)
ORDER BY id;
