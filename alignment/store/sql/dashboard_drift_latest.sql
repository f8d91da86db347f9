-- Purpose: the last comparison of each metric with its baseline; alarms come first.
-- Parameters: none.
-- Grain: one metric and test.
SELECT *
FROM drift_results
QUALIFY row_number() OVER (PARTITION BY metric, test ORDER BY recorded_at DESC, id DESC) = 1
ORDER BY alarm DESC, adjusted_p NULLS LAST, metric
