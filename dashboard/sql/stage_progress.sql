-- Purpose: what a running stage has stored so far.
-- Parameters: $since, when the stage began.
-- Grain: one row.
SELECT
    (SELECT count(*) FROM candidates WHERE created_at >= $since) AS candidates,
    (SELECT count(*) FROM votes WHERE created_at >= $since) AS votes,
    (SELECT count(*) FROM eval_answers WHERE created_at >= $since) AS answers
