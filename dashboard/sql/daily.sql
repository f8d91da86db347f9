-- Purpose: the share of exchanges that each detector flagged, per day. `flagged` is any detector except refusal and pii.
-- Parameters: $days, how far back from the newest exchange.
-- Grain: one day (UTC) and detector. Among several versions of a detector, the last one that ran counts.
WITH recent AS (
    SELECT id, created_at::DATE AS day
    FROM interactions
    WHERE created_at >= (SELECT max(created_at) FROM interactions) - to_days($days::INTEGER)
), latest AS (
    SELECT recent.day, detections.interaction_id, detections.detector, arg_max(detections.flagged, detections.detected_at) AS hit
    FROM detections
    JOIN recent ON recent.id = detections.interaction_id
    GROUP BY ALL
), harmful AS (
    SELECT day, interaction_id, bool_or(hit) AS hit
    FROM latest
    WHERE detector NOT IN ('refusal', 'pii')
    GROUP BY ALL
)
SELECT day, detector, count(*) AS judged, count_if(hit) AS flagged FROM latest GROUP BY ALL
UNION ALL
SELECT day, 'flagged', count(*), count_if(hit) FROM harmful GROUP BY ALL
ORDER BY ALL
