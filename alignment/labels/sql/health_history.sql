-- Purpose: a labeler's health from release to release, using the last measurement of each.
-- Parameters: labeler VARCHAR.
-- Grain: one release, oldest first.
SELECT * FROM labeler_health
WHERE labeler = $labeler
QUALIFY row_number() OVER (PARTITION BY release_id ORDER BY measured_at DESC, id) = 1
ORDER BY min(measured_at) OVER (PARTITION BY release_id), release_id;
