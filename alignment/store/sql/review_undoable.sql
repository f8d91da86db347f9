-- Purpose: a reviewer's last verdict in force, which an undo would take back. Undos themselves do not count.
-- Parameters: $reviewer; $undo, the note that marks an undo.
-- Grain: at most one row.
SELECT id, item_id, verdict
FROM reviewer_verdicts
WHERE reviewer = $reviewer AND NOT (verdict = 'skip' AND coalesce(note = $undo, false))
ORDER BY coalesce(seq, 0) DESC, decided_at DESC, id DESC
LIMIT 1
