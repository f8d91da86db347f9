-- Purpose: the gate's last decision on a release, and whether a person must approve it.
-- Parameters: $release.
-- Grain: at most one row.
SELECT
    decisions.*,
    coalesce(decisions.approval, false) OR EXISTS (
        SELECT 1 FROM release_events AS events
        WHERE events.event = 'waits_for_approval' AND events.night_id = decisions.night_id AND events.release_id = decisions.challenger
            AND events.seq > decisions.seq
    ) AS waits
FROM gate_decisions AS decisions
WHERE challenger = $release
ORDER BY seq DESC
LIMIT 1
