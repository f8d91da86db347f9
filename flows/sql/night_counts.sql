-- Purpose: how many exchanges are flagged as harmful, and how many items of any night wait for a reviewer.
-- Parameters: none.
-- Grain: one row.
SELECT
    (
        SELECT count(DISTINCT interaction_id)
        FROM detections
        WHERE flagged AND detector IN ('harmful_request', 'harmful_answer', 'toxicity')
    ) AS flagged,
    (SELECT count(*) FROM open_reviews) AS open_reviews;
