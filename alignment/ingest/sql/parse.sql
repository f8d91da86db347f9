-- Purpose: read the lines of a block as exchanges; give the reason for each unusable line, and mark texts that may hold personal data.
-- Parameters: max_line_bytes BIGINT, latest TIMESTAMP (later ones are from the future), consent_default BOOLEAN,
--   max_id_bytes BIGINT, max_edit_bytes BIGINT, max_masked_bytes BIGINT (of a line's texts if any is masked),
--   nobody VARCHAR[] (what logs write for no person), placeholders VARCHAR[], thought VARCHAR (a pattern of lines with thought tags), purpose_default VARCHAR, undated BOOLEAN, key VARCHAR, prefilter VARCHAR, personal_id VARCHAR, odd VARCHAR and plain VARCHAR (signs, and the ASCII they are read as), erased VARCHAR[].
--   Each @…@ is replaced by an expression of the source's preset and mapping (settings, not data).
-- Grain: one row per record of the table `block` (part: which of several files, file_time, line_number, line, damage) without its blank lines; reason is NULL for a usable record.
WITH valid AS (
    SELECT
        part, file_time, line_number, line, damage,
        TRY_CAST(CASE WHEN damage IS NULL AND strlen(line) <= $max_line_bytes THEN @line@ END AS JSON) AS document
    FROM block
    WHERE NOT regexp_full_match(line, '[ \t\r\n]*')
),
records AS (@records@),
calls AS (@calls@),
shaped AS (SELECT *, json_transform(body, '@shape@') AS x, @chat@ AS chat FROM calls),
fields AS (
    SELECT
        part, file_time, line_number, record_number, line, damage, document, body,
        coalesce((@conversation_id@)::VARCHAR, '') AS conversation_id,
        coalesce((@session_id@)::VARCHAR, '') AS session_id,
        coalesce((@user_id@)::VARCHAR, '') AS said_user,
        coalesce((@model@)::VARCHAR, '') AS model,
        (@created_at@)::VARCHAR AS logged_at,
        @messages@ AS all_turns,
        (@response@)::JSON AS answer,
        (@consent@)::JSON AS said_of_consent,
        (@purpose@)::JSON AS said_of_purpose,
        (@thumbs@)::VARCHAR AS said_thumbs,
        TRY_CAST((@regenerated@)::VARCHAR AS BOOLEAN) AS regenerated,
        (@edit@)::VARCHAR AS edit,
        list_distinct((@tools@)::VARCHAR[]) AS called,
        (@skipped@)::VARCHAR AS why_skipped
    FROM shaped
),
answered AS (
    SELECT
        * EXCLUDE (answer, all_turns, session_id),
        CASE WHEN list_contains($nobody::VARCHAR[], lower(trim(session_id))) THEN '' ELSE session_id END AS session_id,
        CASE WHEN list_contains($nobody::VARCHAR[], lower(trim(said_user))) THEN '' ELSE said_user END AS user_id,
        -- Tool results since the user's last turn are not the question: the answer is to the user.
        CASE WHEN all_turns[-1].role::VARCHAR = '"tool"' THEN list_reverse(list_reverse(all_turns)[
            coalesce(nullif(list_position(list_reverse(list_transform(all_turns, lambda turn: turn.role::VARCHAR = '"user"')), true), 0), 1) :])
            ELSE all_turns END AS asked,
        all_turns[-1].role::VARCHAR = '"tool"' AS after_tool,
        CASE WHEN starts_with(answer::VARCHAR, '"') THEN answer ->> '$' END AS whole,
        -- Most lines hold no tag, written or escaped (\u003c): this check takes a tenth of the pattern's time.
        CASE WHEN contains(body::VARCHAR, '<') OR contains(body::VARCHAR, '003')
            OR contains(body::VARCHAR, 'THINK]') OR contains(body::VARCHAR, '25c1') OR contains(body::VARCHAR, '◁') THEN regexp_matches(body::VARCHAR, $thought)
            ELSE false END AS thoughtful
    FROM fields
),
parted AS (
    SELECT
        * EXCLUDE (asked),
        -- Thoughts within the text are not part of what was said, now or before.
        CASE WHEN thoughtful THEN spoken(whole) ELSE whole END AS response,
        CASE WHEN thoughtful THEN list_transform(asked, lambda turn: {
            'role': turn.role,
            'content': CASE WHEN turn.role::VARCHAR = '"assistant"' AND starts_with(turn.content::VARCHAR, '"')
                THEN to_json(spoken(turn.content ->> '$')) ELSE turn.content END}) ELSE asked END AS turns
    FROM answered
),
read AS (
    SELECT
        * EXCLUDE (said_thumbs, called),
        CASE WHEN starts_with(turns[-1].content::VARCHAR, '"') THEN turns[-1].content ->> '$' END AS prompt,
        to_json(turns)::VARCHAR AS messages,
        CASE WHEN $undated AND logged_at IS NULL THEN file_time
            ELSE coalesce(TRY_CAST(TRY_CAST(logged_at AS TIMESTAMPTZ) AS TIMESTAMP), TRY_CAST(TRY_CAST(counted_time(logged_at) AS TIMESTAMPTZ) AS TIMESTAMP))
            END AS created_at,
        -- Free text here would be stored unmasked.
        thumb(said_thumbs) AS thumbs,
        thumb(said_thumbs) IS NULL AND trim(coalesce(said_thumbs, '')) <> '' AS thumbs_unread,
        CASE WHEN after_tool OR len(called) > 0 THEN coalesce(nullif(array_to_string(list_sort(called)[:20], ', '), ''), 'unnamed') END AS tools,
        CASE WHEN strlen(whole) > strlen(response) THEN (strlen(whole) - strlen(response))::VARCHAR || ' bytes' END AS reasoning,
        -- An unreadable consent counts as no consent.
        CASE WHEN coalesce(json_type(said_of_consent), 'NULL') = 'NULL' THEN NULL
            ELSE coalesce(TRY_CAST(said_of_consent ->> '$' AS BOOLEAN), false) END AS agreed,
        CASE coalesce(json_type(said_of_purpose), 'NULL')
            WHEN 'NULL' THEN $purpose_default
            WHEN 'ARRAY' THEN CASE WHEN json_contains(said_of_purpose, '"training"') THEN 'training' ELSE 'other' END
            ELSE CASE WHEN said_of_purpose ->> '$' IN ('training', 'evaluation', 'monitoring') THEN said_of_purpose ->> '$' ELSE 'other' END
        END AS purpose
    FROM parted
),
judged AS (
    SELECT
        *,
        CASE
            -- Before all other reasons: whatever else is wrong with the line, nothing of it is kept. A line that is no record may still name the person.
            WHEN len($erased::VARCHAR[]) > 0 AND list_contains($erased::VARCHAR[], @subject_key@) THEN 'erased_subject'
            -- Nor is a line kept that names the person elsewhere than in the current user field, for instance as the owner of a key.
            WHEN len($erased::VARCHAR[]) > 0 AND list_has_any($erased::VARCHAR[], named_keys(
                CASE WHEN json_type(body) = 'OBJECT' THEN body::VARCHAR ELSE line END, $key)) THEN 'erased_subject'
            WHEN damage IS NOT NULL THEN damage
            WHEN strlen(line) > $max_line_bytes THEN 'too_long'
            WHEN document IS NULL THEN 'not_json'
            WHEN NOT starts_with(ltrim(document::VARCHAR, ' ' || chr(9) || chr(10) || chr(13)), '{') THEN 'not_an_object'
            WHEN body IS NULL THEN 'no_exchange:another_record'
            WHEN why_skipped IS NOT NULL THEN 'no_exchange:' || why_skipped
            WHEN turns IS NULL THEN 'messages_not_a_list'
            WHEN len(turns) = 0 THEN 'messages_empty'
            WHEN len(list_filter(turns, lambda turn: NOT starts_with(coalesce(turn.content::VARCHAR, ''), '"'))) > 0
                THEN 'message_content_not_text'
            WHEN len(list_filter(turns, lambda turn: coalesce(turn.role::VARCHAR, '') NOT IN ('"system"', '"user"', '"assistant"', '"tool"'))) > 0
                THEN 'unknown_role'
            WHEN turns[-1].role::VARCHAR <> '"user"' THEN 'last_message_not_from_user'
            -- Gateway placeholders for unlogged texts.
            WHEN placeholder(prompt, $placeholders) OR placeholder(response, $placeholders) THEN 'no_exchange:placeholder'
            -- A tool call in the model's own markup, which nobody parsed out of its text.
            WHEN regexp_full_match(response, '(?s)\s*(?:(?:<tool_call>.*</tool_call>)|(?:\[TOOL_CALLS\]|<\|python_tag\|>).*)\s*')
                THEN 'no_exchange:tool_call'
            -- Blanks of every script and invisible characters are not words.
            WHEN NOT regexp_matches(prompt, '[^\s\p{Z}\p{C}]') THEN 'prompt_empty'
            WHEN response IS NULL THEN 'response_not_text'
            WHEN reasoning IS NOT NULL AND NOT regexp_matches(response, '[^\s\p{Z}\p{C}]') THEN 'no_exchange:no_answer'
            WHEN NOT regexp_matches(response, '[^\s\p{Z}\p{C}]') THEN 'response_empty'
            WHEN created_at IS NULL OR created_at < TIMESTAMP '1970-01-01' THEN 'created_at_not_a_time'
            WHEN created_at > $latest THEN 'created_at_in_the_future'
            WHEN greatest(strlen(conversation_id), strlen(session_id), strlen(user_id), strlen(model)) > $max_id_bytes THEN 'id_too_long'
            WHEN strlen(edit) > $max_edit_bytes THEN 'edit_too_long'
        END AS judged_reason
    FROM read
),
looked AS (
    SELECT
        *,
        -- A NUL is not stored, and the text without it may be read as personal.
        judged_reason IS NULL AND (contains(line, '\u0000')
            OR may_hold(concat_ws(chr(10), conversation_id, session_id, user_id, model), $personal_id, $odd, $plain)) AS personal_ids,
        -- Which texts to search: a search takes a hundred times as long as finding that nothing in a text is personal.
        judged_reason IS NULL AND (contains(line, '\u0000') OR may_hold(messages, $prefilter, $odd, $plain)) AS personal_messages,
        judged_reason IS NULL AND (contains(line, '\u0000')
            OR may_hold(concat_ws(chr(10), response, edit), $prefilter, $odd, $plain)) AS personal_answer
    FROM judged
),
told AS (
    SELECT
        * EXCLUDE (judged_reason),
        -- A search for personal data takes time that grows with the text: no line may cost more than its share.
        CASE WHEN (personal_ids OR personal_messages OR personal_answer)
            AND strlen(messages) + strlen(response) + coalesce(strlen(edit), 0) > $max_masked_bytes THEN 'too_long_to_mask'
            ELSE judged_reason END AS reason
    FROM looked
)
SELECT
    part, line_number, record_number,
    CASE WHEN reason LIKE 'no\_exchange:%' ESCAPE '\' THEN 'no_exchange' ELSE reason END AS reason,
    CASE WHEN reason LIKE 'no\_exchange:%' ESCAPE '\' THEN substr(reason, 13) END AS skipped,
    -- Of a line with many records, only the refused record.
    CASE WHEN reason IS NOT NULL AND reason NOT LIKE 'no\_exchange:%' ESCAPE '\' THEN @refused@ END AS line,
    -- Keyed, so that nobody can guess a short secret from an id.
    CASE WHEN reason IS NULL THEN md5(concat_ws(
        chr(31), $key, conversation_id, said_user, CASE WHEN logged_at IS NULL THEN '' ELSE created_at::VARCHAR END, messages, response)) END AS id,
    conversation_id, session_id, user_id, created_at, model, messages, prompt, response,
    coalesce(agreed, $consent_default) AS consent, purpose,
    thumbs, thumbs_unread, regenerated, edit, coalesce(NOT agreed, false) AS no_consent, tools, reasoning,
    reason IS NULL AND personal_ids AS personal_ids, reason IS NULL AND personal_messages AS personal_messages,
    reason IS NULL AND personal_answer AS personal_answer
FROM told;
