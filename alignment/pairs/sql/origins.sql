-- Purpose: the log source and the conversation of given exchanges; empty if unknown.
-- Parameters: ids VARCHAR[] (exchanges).
-- Grain: one exchange.
SELECT interactions.id, coalesce(any_value(source_files.source), '') AS source, coalesce(any_value(conversation_id), '') AS conversation
FROM interactions
LEFT JOIN source_files ON source_files.id = interactions.source_file
WHERE list_contains($ids, interactions.id)
GROUP BY interactions.id;
