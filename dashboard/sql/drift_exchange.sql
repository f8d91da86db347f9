-- Purpose: one exchange that an alarm names.
-- Parameters: $id.
-- Grain: at most one row.
SELECT id, created_at, model, messages::VARCHAR AS messages, prompt, response
FROM interactions
WHERE id = $id
