-- Purpose: the looks at the canary that was looked at most recently, newest first.
-- Parameters: $limit.
-- Grain: one look.
SELECT canary_checks.*
FROM canary_checks
SEMI JOIN (SELECT release_id, started_at FROM canary_checks ORDER BY seq DESC LIMIT 1) AS last
    ON last.release_id = canary_checks.release_id AND last.started_at = canary_checks.started_at
ORDER BY seq DESC
LIMIT $limit
