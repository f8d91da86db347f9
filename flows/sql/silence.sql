-- Purpose: how many texts a model wrote for a night, and how many are empty, mostly because the model only thought.
-- Parameters: night_id VARCHAR, model VARCHAR (the writer).
-- Grain: one row.
SELECT count(*) AS written, count(*) FILTER (trim(text) = '') AS empty
FROM candidates
WHERE model = $model AND interaction_id IN (
    SELECT interaction_id FROM selections WHERE night_id = $night_id
    UNION ALL
    SELECT seed_id FROM seed_draws WHERE night_id = $night_id
);
