-- Purpose: people's verdicts on the gate's decisions on a release, oldest first.
-- Parameters: $release.
-- Grain: one verdict of one person.
SELECT verdict, decision_id, decision_seq, weights, coalesce(actor, '') AS actor, coalesce(reason, '') AS reason, coalesce(seq, 0) AS seq,
    share
FROM gate_verdicts
WHERE release_id = $release
ORDER BY seq
