-- Purpose: how many exchanges of the last week of traffic name no user, so that drift takes their conversation or themselves for one.
-- Parameters: none.
-- Grain: one row; `unnamed` is NULL without traffic.
SELECT avg((coalesce(user_id, '') = '')::INTEGER) AS unnamed
FROM interactions
ANTI JOIN seeds USING (id)
WHERE created_at >= (SELECT max(day) FROM drift_days) - 6 AND created_at < (SELECT max(day) FROM drift_days) + 1
