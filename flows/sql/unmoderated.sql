-- Purpose: exchanges that some detector, in its current version, has not seen and the cascade's first stage has not cleared; seeds, which
--   are labelled, are left out.
-- Parameters: versions VARCHAR[] ('detector@version'), cascade VARCHAR (version of the first stage; empty: nothing counts as cleared).
-- Grain: one exchange.
SELECT id
FROM interactions
ANTI JOIN (
    SELECT interaction_id FROM detections
    WHERE list_contains($versions, detector || '@' || version)
    GROUP BY interaction_id
    HAVING count(DISTINCT detector) >= len($versions)
) AS seen ON seen.interaction_id = interactions.id
ANTI JOIN (
    SELECT interaction_id FROM clearings
    SEMI JOIN (SELECT id FROM cascade_audits WHERE held) AS trusted ON trusted.id = clearings.run
    WHERE version = $cascade
) AS passed ON passed.interaction_id = interactions.id
ANTI JOIN seeds USING (id)
ORDER BY id;
