-- Purpose: the outcomes of the exchanges that a night wanted the teacher to answer better.
-- Parameters: night_id VARCHAR.
-- Grain: one outcome; of several attempts at an exchange, the last one counts.
WITH last AS (
    SELECT outcome FROM author_outcomes
    WHERE night_id = $night_id
    QUALIFY row_number() OVER (PARTITION BY interaction_id ORDER BY recorded_at DESC, id DESC) = 1
)
SELECT outcome, count(*) AS n FROM last GROUP BY outcome ORDER BY outcome;
