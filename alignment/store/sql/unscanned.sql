-- Purpose: exchanges that a detector flagged or a night chose, and that this version of the deep redactor has not read.
-- Parameters: version VARCHAR.
-- Grain: one exchange.
SELECT id
FROM interactions
SEMI JOIN (
    SELECT interaction_id FROM detections WHERE flagged
    UNION ALL
    SELECT interaction_id FROM selections
) AS wanted ON wanted.interaction_id = interactions.id
ANTI JOIN (SELECT interaction_id FROM deep_redactions WHERE version = $version) AS scanned ON scanned.interaction_id = interactions.id
ORDER BY id;
