-- Purpose: the sources of the seeds among some exchanges.
-- Parameters: ids VARCHAR[] (exchanges, one per pair).
-- Grain: one source of seeds and its licence.
SELECT source, licence, count(*) AS pairs
FROM seeds
JOIN (SELECT unnest($ids::VARCHAR[]) AS id) AS paired USING (id)
GROUP BY ALL
ORDER BY ALL;
