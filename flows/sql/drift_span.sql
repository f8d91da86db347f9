-- Purpose: which days of traffic there are, and up to which drift has measured them.
-- Parameters: none.
-- Grain: one row; NULL where there is nothing.
SELECT
    min(created_at)::DATE AS first, max(created_at)::DATE AS newest, (SELECT max(day) FROM drift_days) AS measured,
    (SELECT max(day) FROM drift_alarms) AS alarmed
FROM interactions
ANTI JOIN seeds USING (id)
