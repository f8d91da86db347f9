-- Purpose: the last drift report, alarms first.
-- Parameters: none.
-- Grain: one metric and test.
SELECT *
FROM drift_results
WHERE night_id = (SELECT arg_max(night_id, recorded_at) FROM drift_results)
QUALIFY row_number() OVER (PARTITION BY metric, test ORDER BY recorded_at DESC, id DESC) = 1
ORDER BY alarm DESC, adjusted_p NULLS LAST, metric
