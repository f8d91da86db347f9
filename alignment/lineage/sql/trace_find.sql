-- Purpose: everything that an id, or its prefix, can name.
-- Parameters: id VARCHAR (full, or at least its first eight digits).
-- Grain: one thing; a release is also found by its events.
SELECT DISTINCT kind, id
FROM (
    SELECT 'release' AS kind, release_id AS id FROM release_events WHERE release_id <> 'base'
    UNION ALL SELECT 'release', challenger FROM gate_decisions
    UNION ALL SELECT 'night', night_id FROM night_events
    UNION ALL SELECT 'night', night_id FROM pair_sets
    UNION ALL SELECT 'pair', id FROM pairs
    UNION ALL SELECT 'judgement', id FROM judgements
    UNION ALL SELECT 'candidate', id FROM candidates
    UNION ALL SELECT 'review item', id FROM review_items
    UNION ALL SELECT 'exchange', id FROM interactions
    UNION ALL SELECT 'quarantined line', id FROM quarantine
) AS things
WHERE starts_with(id, $id)
ORDER BY kind, id;
