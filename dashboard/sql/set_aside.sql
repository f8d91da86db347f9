-- Purpose: the log files that are kept out as a whole, for the Checks page.
-- Parameters: none.
-- Grain: one path of a source, newest first, at most 200.
SELECT source, path, kind, reason, set_aside_at
FROM open_set_aside
ORDER BY set_aside_at DESC, path
LIMIT 200;
