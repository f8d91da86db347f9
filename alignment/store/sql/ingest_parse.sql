-- Purpose: read gateway log lines into columns and say of each unusable line why.
-- Parameters: max_line_bytes BIGINT, latest TIMESTAMP (lines after it are from the future), consent_default BOOLEAN.
-- Grain: one row a non-blank line of the table `lines` (line_number, line, damage); reason is NULL for a usable line.
CREATE TABLE parsed AS
WITH valid AS (
    SELECT
        line_number, line, strlen(line) AS bytes,
        CASE WHEN damage IS NULL AND strlen(line) <= $max_line_bytes AND json_valid(line) THEN line END AS body,
        damage
    FROM lines
),
fields AS (
    SELECT
        *,
        json_type(body) AS kind,
        CASE WHEN json_type(body, '$.messages') = 'ARRAY' THEN body -> '$.messages' END AS turns,
        CASE WHEN json_type(body, '$.response') = 'VARCHAR' THEN body ->> '$.response' END AS response,
        TRY_CAST(TRY_CAST(body ->> '$.created_at' AS TIMESTAMPTZ) AS TIMESTAMP) AS created_at,
        coalesce(body ->> '$.conversation_id', '') AS conversation_id,
        coalesce(body ->> '$.session_id', '') AS session_id,
        coalesce(body ->> '$.user_id', '') AS user_id,
        coalesce(body ->> '$.model', '') AS model,
        -- A consent that is there but cannot be read is none.
        CASE WHEN coalesce(json_type(body, '$.consent'), 'NULL') = 'NULL' THEN $consent_default
            ELSE coalesce(TRY_CAST(body ->> '$.consent' AS BOOLEAN), false) END AS consent,
        coalesce(json_type(body, '$.consent'), 'NULL') <> 'NULL' AND NOT consent AS said_no,
        -- Free text in this place would be stored as it is.
        CASE WHEN body ->> '$.signals.thumbs' IN ('up', 'down') THEN body ->> '$.signals.thumbs' END AS thumbs,
        TRY_CAST(body ->> '$.signals.regenerated' AS BOOLEAN) AS regenerated,
        body ->> '$.signals.edit' AS edit
    FROM valid
),
turned AS (
    SELECT
        *,
        json_array_length(turns) AS turn_count,
        list_transform(json_extract(turns, '$[*].content'), lambda part: json_type(part)) AS content_kinds,
        json_extract_string(turns, '$[*].content') AS contents,
        list_transform(json_extract_string(turns, '$[*].role'), lambda role: coalesce(role, '')) AS roles,
        turns ->> '$[#-1].content' AS prompt
    FROM fields
)
SELECT
    line_number, line, conversation_id, session_id, user_id, created_at, model,
    -- Role and content only: whatever else a turn carries is nobody's to train on.
    to_json(list_transform(contents, lambda content, position: {'role': roles[position], 'content': content})) AS messages,
    prompt, response,
    consent, said_no, thumbs, regenerated, edit,
    CASE
        WHEN damage IS NOT NULL THEN damage
        WHEN bytes > $max_line_bytes THEN 'too_long'
        WHEN body IS NULL THEN 'not_json'
        WHEN kind <> 'OBJECT' THEN 'not_an_object'
        WHEN turns IS NULL THEN 'messages_not_a_list'
        WHEN turn_count = 0 THEN 'messages_empty'
        WHEN len(content_kinds) <> turn_count OR len(list_filter(content_kinds, lambda kind: kind <> 'VARCHAR')) > 0
            THEN 'message_content_not_text'
        WHEN len(roles) <> turn_count OR len(list_filter(roles, lambda role: role NOT IN ('system', 'user', 'assistant', 'tool'))) > 0
            THEN 'unknown_role'
        WHEN roles[-1] <> 'user' THEN 'last_message_not_from_user'
        WHEN NOT regexp_matches(prompt, '\S') THEN 'prompt_empty'
        WHEN response IS NULL THEN 'response_not_text'
        WHEN NOT regexp_matches(response, '\S') THEN 'response_empty'
        WHEN created_at IS NULL OR created_at < TIMESTAMP '1970-01-01' THEN 'created_at_not_a_time'
        WHEN created_at > $latest THEN 'created_at_in_the_future'
    END AS reason,
    CASE WHEN reason IS NULL
        THEN sha256(concat_ws(chr(31), conversation_id, user_id, created_at::VARCHAR, turns::VARCHAR, response)) END AS id
FROM turned;
