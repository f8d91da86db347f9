-- Purpose: exchanges that a detector flagged or a night selected, and that this version of the deep redactor has not read.
-- Parameters: version VARCHAR, max_chars BIGINT (of a prompt that may be labelled).
-- Grain: one exchange. Exchanges too long to be labelled are left out: the redactor's time grows with every character.
SELECT id
FROM interactions
SEMI JOIN (
    SELECT interaction_id FROM detections WHERE flagged
    UNION ALL
    SELECT interaction_id FROM selections
) AS wanted ON wanted.interaction_id = interactions.id
ANTI JOIN (SELECT interaction_id FROM deep_redactions WHERE version = $version) AS scanned ON scanned.interaction_id = interactions.id
WHERE length(messages::VARCHAR) + length(response) <= 6 * $max_chars
ORDER BY id;
