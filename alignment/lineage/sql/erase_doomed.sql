-- Purpose: every row that exists because of one person.
-- Parameters: forms VARCHAR[] (the person's id as logged and as masked), pattern VARCHAR (matches a quarantined line that names it).
-- Grain: one row to erase; `id` is the table's own id, but the exchange's for `detections` and `deep_redactions`.
WITH exchange AS (SELECT id FROM interactions WHERE list_contains($forms, user_id)),
item AS (SELECT id FROM review_items WHERE interaction_id IN (FROM exchange)),
pair AS (SELECT id FROM pairs WHERE list_contains($forms, user_id) OR interaction_id IN (FROM exchange)),
refused AS (SELECT id FROM quarantine WHERE list_contains($forms, user_id) OR regexp_matches(raw, $pattern))
SELECT 'interactions' AS table_name, id FROM exchange
UNION ALL SELECT 'signals', id FROM signals WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'quarantine', id FROM refused
UNION ALL SELECT 'replays', id FROM replays WHERE quarantine_id IN (FROM refused)
UNION ALL SELECT 'detections', interaction_id FROM detections WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'drift_examples', id FROM drift_examples WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'deep_redactions', interaction_id FROM deep_redactions WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'guard_answers', id FROM guard_answers WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'selections', id FROM selections WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'candidates', id FROM candidates WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'judgements', id FROM judgements WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'votes', id FROM votes WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'teacher_calls', id FROM teacher_calls WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'author_outcomes', id FROM author_outcomes WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'pairs', id FROM pair
UNION ALL SELECT 'pair_sets', id FROM pair_sets WHERE pair_id IN (FROM pair)
UNION ALL SELECT 'pair_exclusions', id FROM pair_exclusions WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'contamination_checks', id FROM contamination_checks WHERE interaction_id IN (FROM exchange)
UNION ALL SELECT 'principle_decisions', id FROM principle_decisions WHERE interaction_id IN (FROM exchange) OR pair_id IN (FROM pair)
UNION ALL SELECT 'review_items', id FROM item
UNION ALL SELECT 'verdicts', id FROM verdicts WHERE item_id IN (FROM item)
UNION ALL SELECT 'review_holds', id FROM review_holds WHERE item_id IN (FROM item)
UNION ALL SELECT 'pair_events', id FROM pair_events WHERE pair_id IN (FROM pair) OR interaction_id IN (FROM exchange);
