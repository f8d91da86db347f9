-- Purpose: store drawn seeds as exchanges, from which pairs can be built; no log can restore them.
-- Parameters: none. The turns before a seed alternate between user and assistant.
-- Grain: one drawn seed without an exchange.
INSERT INTO interactions BY NAME
SELECT
    id, '' AS source_file, 0 AS line_number, CASE WHEN json_array_length(before) > 0
        THEN sha256(concat_ws(chr(31), source, array_to_string(from_json(before, '["VARCHAR"]'), chr(31)))) ELSE '' END AS conversation_id,
    '' AS session_id, '' AS user_id, TIMESTAMP '1970-01-01' AS created_at,
    '' AS model, to_json(list_transform(
        list_append(from_json(coalesce(before, '[]'), '["VARCHAR"]'), text),
        lambda said, number: {'role': if(number % 2 = 1, 'user', 'assistant'), 'content': said})) AS messages, text AS prompt, '' AS response,
    true AS consent, 'training' AS purpose, json('{}') AS pii, added_at AS ingested_at
FROM seeds
WHERE id IN (SELECT seed_id FROM seed_draws) AND id NOT IN (SELECT id FROM interactions)
QUALIFY row_number() OVER (PARTITION BY id ORDER BY added_at) = 1;
