-- Purpose: what a night's release was trained on, counted by side, category, labeler and principle.
-- Parameters: $night.
-- Grain: one value of one of the four.
WITH trained AS (
    SELECT side, category, labelers, principle_ids
    FROM pair_sets JOIN pairs ON pairs.id = pair_id
    WHERE night_id = $night AND pair_sets.split = 'train'
)
SELECT 'side' AS kind, side AS name, count(*) AS pairs FROM trained GROUP BY ALL
UNION ALL SELECT 'category', category, count(*) FROM trained GROUP BY ALL
UNION ALL SELECT 'labeler', unnest(labelers::VARCHAR[]) AS name, count(*) FROM trained GROUP BY ALL
UNION ALL SELECT 'principle', unnest(principle_ids::VARCHAR[]) AS name, count(*) FROM trained GROUP BY ALL
ORDER BY ALL;
