-- Purpose: the evidence that anything has changed: the mean of all e-detectors after the last closed day.
-- Parameters: none.
-- Grain: at most one row.
SELECT day, value
FROM drift_days
WHERE signal = 'all'
QUALIFY row_number() OVER (ORDER BY day DESC) = 1
