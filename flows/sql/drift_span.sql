-- Purpose: which days of traffic there are, and which ones drift has measured.
-- Parameters: moment TIMESTAMP, the current time.
-- Grain: one row; NULL where there is nothing. No day after today is the newest: a client's clock may be ahead.
SELECT
    min(created_at)::DATE AS oldest, least(max(created_at)::DATE, $moment::DATE) AS newest,
    (SELECT min(day) FROM drift_days) AS first, (SELECT max(day) FROM drift_days) AS measured,
    (SELECT max(day) FROM drift_alarms) AS alarmed
FROM interactions
ANTI JOIN seeds USING (id)
