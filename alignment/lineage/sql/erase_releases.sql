-- Purpose: the releases whose training set held a pair to be erased.
-- Parameters: none; reads the table `doomed` made by erase_doomed.
-- Grain: one release and night of that release.
SELECT DISTINCT made.release_id, made.night_id
FROM (
    SELECT release_id, night_id FROM release_events WHERE event = 'registered'
    UNION SELECT challenger, night_id FROM gate_decisions
) AS made
JOIN pair_sets ON pair_sets.night_id = made.night_id
JOIN doomed ON doomed.table_name = 'pair_sets' AND doomed.id = pair_sets.id
ORDER BY made.release_id, made.night_id;
