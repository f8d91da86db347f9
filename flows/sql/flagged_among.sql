-- Purpose: how many of some exchanges a bundled detector flags, other than for personal data.
-- Parameters: ids VARCHAR[].
-- Grain: one row. Among several versions of a detector, the last one that ran counts.
WITH latest AS (
    SELECT interaction_id, arg_max(flagged, detected_at) AS flagged
    FROM detections
    SEMI JOIN (SELECT unnest($ids::VARCHAR[]) AS id) AS wanted ON wanted.id = interaction_id
    WHERE detector IN ('harmful_request', 'harmful_answer', 'refusal', 'toxicity')
    GROUP BY interaction_id, detector
)
SELECT count(DISTINCT interaction_id) FILTER (flagged) AS n FROM latest;
