-- Purpose: the days of real traffic with its askers, including days that are not closed yet.
-- Parameters: since DATE, until DATE (not included).
-- Grain: one day (UTC) with exchanges.
SELECT day, count(DISTINCT asker) AS users
FROM traffic($since, $until)
GROUP BY day
ORDER BY day
