-- Purpose: rules that hold between tables, and how often each is broken.
-- Parameters: none.
-- Grain: one row per rule.
SELECT 'log files whose lines do not add up (read = stored + duplicate + quarantined + skipped)' AS rule, count(*) AS broken
FROM source_files WHERE rows_read <> rows_stored + rows_duplicate + rows_quarantined + rows_skipped
UNION ALL
SELECT 'pairs whose exchange is not there', count(*)
FROM pairs ANTI JOIN interactions ON interactions.id = pairs.interaction_id
UNION ALL
SELECT 'rows of pair_sets whose pair is not there', count(*)
FROM pair_sets ANTI JOIN pairs ON pairs.id = pair_sets.pair_id
UNION ALL
SELECT 'verdicts on items that are not there', count(*)
FROM verdicts ANTI JOIN review_items ON review_items.id = verdicts.item_id;
