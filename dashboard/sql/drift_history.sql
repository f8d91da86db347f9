-- Purpose: which metrics raised an alarm in which of the latest reports.
-- Parameters: $limit, the number of nights.
-- Grain: one metric of one night; of several reports in a night, the last one counts. `began_at` is when the night began, or a report by hand was made.
WITH nights AS (
    SELECT night_id, max(recorded_at) AS reported_at
    FROM drift_results
    GROUP BY night_id
    ORDER BY reported_at DESC
    LIMIT $limit
)
SELECT
    nights.night_id, coalesce(began.began_at, nights.reported_at) AS began_at, drift_results.metric,
    arg_max(drift_results.alarm, drift_results.recorded_at) AS alarm,
    arg_max(drift_results.adjusted_p, drift_results.recorded_at) AS adjusted_p
FROM nights
LEFT JOIN (SELECT night_id, min(recorded_at) AS began_at FROM night_events GROUP BY night_id) AS began USING (night_id)
JOIN drift_results USING (night_id)
GROUP BY ALL
ORDER BY began_at, drift_results.metric
