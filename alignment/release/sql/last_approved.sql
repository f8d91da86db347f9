-- Purpose: releases that people approved, or overrode the gate for, and have not refused since; newest first.
-- Parameters: $besides, a release to leave out.
-- Grain: one release. An override for a share of the traffic is no approval.
SELECT release_id
FROM gate_verdicts
WHERE share IS NULL AND release_id <> $besides
GROUP BY release_id
HAVING max_by(verdict, seq) IN ('approved', 'overridden')
ORDER BY max(seq) DESC
