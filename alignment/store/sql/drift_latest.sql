-- Purpose: each signal of drift in the last seven closed days, those in alarm first.
-- Parameters: none.
-- Grain: one signal with data in those days. Means are over users of those days; `value` is its e-detector's on the last of them. `alarm`:
--   an alarm of those days named it; then `since`, `effect`, `low` and `high` are that alarm's.
WITH newest AS (SELECT max(day) AS day FROM drift_days),
week AS (SELECT drift_days.* FROM drift_days, newest WHERE drift_days.day > newest.day - 7 AND signal <> 'all'),
named AS (
    SELECT drift_alarms.*
    FROM drift_alarms, newest
    WHERE drift_alarms.day > newest.day - 7
    QUALIFY row_number() OVER (PARTITION BY signal ORDER BY drift_alarms.day DESC) = 1
)
SELECT
    week.signal, max(week.day) AS day,
    sum(week.baseline * week.baseline_users) / sum(week.baseline_users) AS baseline,
    sum(week.rate * week.users) / sum(week.users) AS rate,
    sum(week.users) AS users, sum(week.baseline_users) AS baseline_users,
    arg_max(week.value, week.day) AS value,
    any_value(named.signal) IS NOT NULL AS alarm,
    any_value(named.since) AS since, any_value(named.effect) AS effect, any_value(named.low) AS low, any_value(named.high) AS high
FROM week
LEFT JOIN named USING (signal)
GROUP BY week.signal
ORDER BY alarm DESC, value DESC, week.signal
