-- Purpose: how many lines each reason kept out per day.
-- Parameters: $days, the last days on which any line was quarantined.
-- Grain: one day (UTC) and reason.
SELECT quarantined_at::DATE AS day, reason, count(*) AS lines
FROM quarantine
GROUP BY day, reason
QUALIFY dense_rank() OVER (ORDER BY day DESC) <= $days
ORDER BY day, reason;
