-- Purpose: the seeds that a night teaches.
-- Parameters: night_id VARCHAR.
-- Grain: one seed that has not been removed since, in the order of the draw.
SELECT open_seeds.* EXCLUDE (licence, added_at)
FROM open_seeds
JOIN seed_draws ON seed_draws.seed_id = open_seeds.id AND seed_draws.night_id = $night_id
ORDER BY position;
