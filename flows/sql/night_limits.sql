-- Purpose: which limits of the teacher a night reached, so that calls were not made.
-- Parameters: $night_id.
-- Grain: one setting, as "[section] key".
SELECT DISTINCT setting
FROM (
    SELECT regexp_extract(detail ->> '$.reason', '^limit: (\[[a-z_]+\] [a-z_]+)', 1) AS setting
    FROM votes
    WHERE night_id = $night_id AND verdict = 'unscored' AND (detail ->> '$.reason') LIKE 'limit:%'
    UNION ALL
    -- An outcome does not name the setting: it may be the night's tokens or money, or the author's own limit.
    SELECT '[candidates] author_budget or [teacher]'
    FROM author_outcomes
    WHERE night_id = $night_id AND outcome = 'limit'
)
WHERE setting <> ''
ORDER BY setting;
