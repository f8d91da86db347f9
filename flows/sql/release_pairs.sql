-- Purpose: what a night's release was trained on, counted by side, category, labeler and principle.
-- Parameters: $night.
-- Grain: one value of one of these four attributes.
WITH trained AS (
    SELECT side, category, labelers, principle_ids
    FROM pair_sets JOIN pairs ON pairs.id = pair_id
    WHERE night_id = $night AND pair_sets.split = 'train'
),
named AS (
    SELECT 'side' AS kind, side AS name FROM trained
    UNION ALL SELECT 'category', category FROM trained
    UNION ALL SELECT 'labeler', unnest(labelers::VARCHAR[]) FROM trained
    UNION ALL SELECT 'principle', unnest(principle_ids::VARCHAR[]) FROM trained
)
SELECT kind, name, count(*) AS pairs FROM named GROUP BY ALL ORDER BY ALL;
