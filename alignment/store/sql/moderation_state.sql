-- Purpose: what the detectors and the cascade's first stage have looked at, and the last audit of the cascade.
-- Parameters: none.
-- Grain: one row. `scored` exchanges took the full path, `cleared` ones only the first stage, `waiting` ones neither; seeds do not count. The
--   audit's columns are NULL if the cascade never ran.
WITH asked AS (SELECT id FROM interactions ANTI JOIN seeds USING (id)),
full_path AS (SELECT DISTINCT interaction_id AS id FROM detections SEMI JOIN asked ON asked.id = interaction_id WHERE detector = 'harmful_request'),
counted AS (
    SELECT
        (SELECT count(*) FROM asked) AS exchanges,
        (SELECT count(*) FROM full_path) AS scored,
        (SELECT count(*) FROM cleared SEMI JOIN asked ON asked.id = interaction_id) AS cleared
),
last AS (FROM cascade_audits ORDER BY recorded_at DESC, id LIMIT 1)
SELECT
    counted.scored, counted.cleared, counted.exchanges - counted.scored - counted.cleared AS waiting,
    last.exchanges AS run_exchanges, last.passed, last.flagged, last.cleared AS run_cleared, audited, missed, low, high, allowed, held,
    recorded_at
FROM counted
LEFT JOIN last ON true;
