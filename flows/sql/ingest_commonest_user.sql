-- Purpose: users named on more of a source's new exchanges than one person writes: such an id may be a service's or a gateway's.
-- Parameters: since TIMESTAMP, sources VARCHAR[], share DOUBLE, least BIGINT (exchanges that a source needs for a meaningful share).
-- Grain: one source.
SELECT source, user_id, number, total
FROM (
    SELECT files.source, user_id, count(*) AS number, sum(number) OVER (PARTITION BY files.source)::BIGINT AS total
    FROM interactions
    JOIN (SELECT id, coalesce(any_value(source), 'logs') AS source FROM source_files GROUP BY id) AS files ON files.id = interactions.source_file
    WHERE ingested_at >= $since AND list_contains($sources::VARCHAR[], files.source)
    GROUP BY files.source, user_id
)
WHERE user_id <> '' AND total >= $least AND number > $share * total
ORDER BY source, number DESC, user_id;
