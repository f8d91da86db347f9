-- Purpose: each signal of drift by day, as the night stored it.
-- Parameters: $days, how many closed days back.
-- Grain: one day and signal; the signal 'all' has the mean of all detectors.
SELECT day, signal, rate, baseline, users, value
FROM drift_days
WHERE day > (SELECT max(day) FROM drift_days) - $days::INTEGER
ORDER BY signal, day
