-- Purpose: how many exchanges are flagged as harmful, by any detector or guard, and how many items of any night wait for a reviewer.
-- Parameters: none.
-- Grain: one row.
SELECT
    (
        SELECT count(DISTINCT interaction_id)
        FROM detections
        WHERE flagged AND detector NOT IN ('refusal', 'pii')
    ) AS flagged,
    (SELECT count(*) FROM open_reviews) AS open_reviews;
