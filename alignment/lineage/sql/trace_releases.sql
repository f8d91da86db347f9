-- Purpose: the releases that a night made.
-- Parameters: night VARCHAR.
-- Grain: one release; `events` lists what happened to it, oldest first.
SELECT made.id, list(event ORDER BY seq) FILTER (event IS NOT NULL) AS events
FROM (
    SELECT release_id AS id FROM release_events WHERE night_id = $night AND event = 'registered'
    UNION SELECT challenger FROM gate_decisions WHERE night_id = $night
) AS made
LEFT JOIN release_events ON release_events.release_id = made.id
GROUP BY made.id
ORDER BY made.id;
