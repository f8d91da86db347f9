-- Purpose: what belongs to a night: the gate's last decision, the release that it was about, whether it trained and on how many pairs.
-- Parameters: $night.
-- Grain: one row; NULL or zero for what a night has not come to.
SELECT
    (SELECT arg_max(id, seq) FROM gate_decisions WHERE night_id = $night) AS decision,
    (SELECT arg_max(challenger, seq) FROM gate_decisions WHERE night_id = $night) AS release,
    (SELECT count(*) FROM training_runs WHERE night_id = $night) AS runs,
    (SELECT count(*) FROM pair_sets WHERE night_id = $night) AS pairs
