-- Purpose: exchanges by id.
-- Parameters: ids VARCHAR[].
-- Grain: one exchange.
SELECT id, conversation_id, user_id, created_at, model, messages::VARCHAR AS messages, response
FROM interactions
SEMI JOIN (SELECT unnest($ids::VARCHAR[]) AS id) AS wanted USING (id)
ORDER BY id;
