-- Purpose: the sources of seeds that are taught beside the logs.
-- Parameters: none.
-- Grain: one source that has not been removed.
SELECT
    open_seeds.source, any_value(added.licence) AS licence, count(*) FILTER (side = 'harm') AS harm, count(*) FILTER (side = 'helpful') AS helpful,
    any_value(added.contaminated) AS contaminated, any_value(added.actor) AS added_by, any_value(added.recorded_at) AS added_at
FROM open_seeds
JOIN (
    SELECT * FROM seed_events WHERE action = 'add' QUALIFY row_number() OVER (PARTITION BY source ORDER BY seq DESC) = 1
) AS added ON added.source = open_seeds.source
GROUP BY open_seeds.source
ORDER BY open_seeds.source;
