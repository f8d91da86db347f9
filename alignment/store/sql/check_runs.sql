-- Purpose: the results of each suite's last run.
-- Parameters: none.
-- Grain: one expectation on one batch; chunks of a long batch count together, with the detail of one that failed.
WITH last AS (
    SELECT suite, max(checked_at) AS checked_at FROM check_results GROUP BY suite
)
SELECT
    suite, batch, expectation, column_name, severity, checked_at,
    bool_and(success) AS success, sum(rows_checked)::BIGINT AS rows_checked, sum(rows_failed)::BIGINT AS rows_failed,
    arg_min(detail, success) AS detail
FROM check_results
SEMI JOIN last USING (suite, checked_at)
GROUP BY suite, batch, expectation, column_name, severity, checked_at, detail -> '$.arguments', detail -> '$.words'
ORDER BY suite, batch, severity = 'warn', expectation, column_name;
