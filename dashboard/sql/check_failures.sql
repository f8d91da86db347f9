-- Purpose: unmet expectations, newest first.
-- Parameters: $limit.
-- Grain: one expectation on one batch, per run; the chunks of a long batch count together.
SELECT
    suite, batch, expectation, column_name, severity, checked_at, false AS success,
    sum(rows_checked)::BIGINT AS rows_checked, sum(rows_failed)::BIGINT AS rows_failed, any_value(detail) AS detail
FROM check_results
WHERE NOT success
GROUP BY suite, batch, expectation, column_name, severity, checked_at, detail -> '$.words'
ORDER BY checked_at DESC, suite, batch, expectation, column_name
LIMIT $limit;
