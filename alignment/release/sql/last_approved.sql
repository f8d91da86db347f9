-- Purpose: releases that people approved, or overrode the gate for, and did not refuse since; the last one first.
-- Parameters: $besides, a release that does not count.
-- Grain: one release. An override for a share of the traffic is no approval.
SELECT release_id
FROM gate_verdicts
WHERE share IS NULL AND release_id <> $besides
GROUP BY release_id
HAVING max_by(verdict, seq) IN ('approved', 'overridden')
ORDER BY max(seq) DESC
