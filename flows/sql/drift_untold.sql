-- Purpose: the alarms that people have not been told of: a night that was killed, or a report by hand, may have found them.
-- Parameters: since DATE, the first day of an alarm that is still news.
-- Grain: one signal named by the alarm of one day. A night has told of it if its last stage ended after the alarm was stored, and the
--   night finished after that.
SELECT *
FROM drift_alarms
WHERE day >= $since
    AND NOT EXISTS (
        SELECT 1
        FROM night_stages
        JOIN night_events USING (night_id)
        WHERE stage = 'monitor' AND finished_at >= drift_alarms.recorded_at
            AND event = 'finished' AND night_events.recorded_at >= finished_at
    )
ORDER BY day, value DESC, signal
