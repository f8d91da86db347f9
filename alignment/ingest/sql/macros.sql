-- Purpose: macros with which the presets of alignment/ingest/presets.toml read other formats.
-- Parameters: none.
-- Grain: macros only. Within them `->` would parse as a lambda, so it is written json_extract. A turn is STRUCT(role JSON, content JSON); an unreadable value is NULL and quarantines its line later.
CREATE MACRO unpacked(value) AS CASE
    WHEN json_type(value) = 'VARCHAR' AND regexp_matches(value ->> '$', '^\s*[\[{]') AND json_valid(value ->> '$') THEN (value ->> '$')::JSON
    ELSE value
END;
-- Times are texts, or seconds or milliseconds since 1970; values beyond DuckDB's years are not times.
CREATE MACRO instant(seconds) AS CASE WHEN abs(seconds) < 2.5e11 THEN to_timestamp(seconds)::VARCHAR END;
CREATE MACRO epoch_text(value) AS CASE
    WHEN json_type(value) = 'VARCHAR' THEN value ->> '$'
    ELSE instant(CASE WHEN TRY_CAST(value AS DOUBLE) > 1e11 THEN TRY_CAST(value AS DOUBLE) / 1000 ELSE TRY_CAST(value AS DOUBLE) END)
END;
-- Tables store seconds, milliseconds, microseconds or nanoseconds since 1970 as texts.
CREATE MACRO counted_time(value) AS CASE WHEN regexp_full_match(value, '[0-9]{10}(?:[0-9]{3}|[0-9]{6}|[0-9]{9})?(?:\.[0-9]+)?')
    THEN instant(TRY_CAST(value AS DOUBLE) / pow(10, length(split_part(value, '.', 1)) - 10)) END;
-- A time without a year belongs to the last year in which its file could have been written.
CREATE MACRO of_year(moment, file_time) AS coalesce(
    CASE WHEN TRY_CAST(year(file_time) || '-' || moment AS TIMESTAMP) <= file_time + INTERVAL 1 DAY THEN year(file_time) || '-' || moment END,
    CASE WHEN TRY_CAST((year(file_time) - 1) || '-' || moment AS TIMESTAMP) IS NOT NULL THEN (year(file_time) - 1) || '-' || moment END);
-- Exporters write 0 for an unknown time.
CREATE MACRO nanoseconds(value, name) AS nullif(TRY_CAST(value ->> name AS DOUBLE), 0);
-- A gateway may pack routes and keys into an answer's id; it stays one id, shortened to a length that is stored.
CREATE MACRO short_id(id) AS CASE WHEN strlen(id) > 256 THEN md5(id) ELSE id END;
-- A JSON null, or the NaN that pandas writes for it, must not take precedence over a value.
CREATE MACRO given(value) AS CASE WHEN json_type(value) <> 'NULL' AND value::VARCHAR <> 'NaN' THEN value END;
-- Signs of other scripts hide a value from a pattern and from nobody else; an ASCII text has none.
CREATE MACRO may_hold(text, pattern, odd, plain) AS regexp_matches(
    CASE WHEN strlen(text) > length(text) THEN text || chr(10) || translate(text, odd, plain) ELSE text END, pattern);
-- Gateway placeholders for unlogged texts are short: at most 62 bytes, and blanks.
CREATE MACRO placeholder(text, known) AS CASE WHEN strlen(text) <= 96 THEN list_contains(known::VARCHAR[], lower(trim(text))) ELSE false END;
CREATE MACRO items(list) AS CASE WHEN json_type(list) = 'ARRAY' THEN from_json(list, '["JSON"]') ELSE []::JSON[] END;

-- A content is a text or a list of typed parts. Thoughts and tool calls are not speech; a picture leaves its type.
CREATE MACRO is_thought(part) AS coalesce(part ->> '$.thought' = 'true', false) OR coalesce(part ->> '$.type', '') IN (
    'thinking', 'redacted_thinking', 'reasoning', 'reasoning_content', 'reasoning_text', 'thought', 'summary_text');
CREATE MACRO is_call(part) AS coalesce(part ->> '$.type', '') IN (
    'tool_use', 'tool_call', 'tool-call', 'function_call', 'custom_tool_call', 'server_tool_use', 'mcp_call', 'mcp_tool_use',
    'web_search_call', 'file_search_call', 'code_interpreter_call', 'computer_call', 'image_generation_call', 'local_shell_call')
    OR coalesce(json_type(part, '$.functionCall') = 'OBJECT', false);
CREATE MACRO plain_text(part) AS CASE
    WHEN json_type(part) = 'VARCHAR' THEN part ->> '$'
    WHEN json_type(part, '$.text') = 'VARCHAR' THEN part ->> '$.text'
    WHEN json_type(part, '$.content') = 'VARCHAR' THEN part ->> '$.content'
END;
CREATE MACRO part_text(part) AS CASE
    WHEN is_thought(part) OR is_call(part) THEN NULL
    WHEN part ->> '$.type' = 'refusal' THEN part ->> '$.refusal'
    ELSE coalesce(
        plain_text(part),
        CASE WHEN part ->> '$.type' IN ('tool_result', 'tool-result', 'tool_call_response', 'function_call_output') THEN coalesce(
            array_to_string(json_extract_string(part, '$.content[*].text'), chr(10)), part ->> '$.response', part ->> '$.result', part ->> '$.output', '') END,
        '[' || coalesce(part ->> '$.type', 'part') || ']')
END;
CREATE MACRO content_text(content) AS CASE json_type(content)
    WHEN 'VARCHAR' THEN content ->> '$'
    WHEN 'ARRAY' THEN array_to_string(list_transform(from_json(content, '["JSON"]'), lambda part: part_text(part)), chr(10))
END;
CREATE MACRO parts_of(message) AS coalesce(given(json_extract(message, '$.content')), given(json_extract(message, '$.parts')));

CREATE MACRO turn_role(role) AS CASE role
    WHEN 'developer' THEN 'system' WHEN 'function' THEN 'tool' WHEN 'model' THEN 'assistant' WHEN 'ai' THEN 'assistant' WHEN 'human' THEN 'user'
    WHEN 'gpt' THEN 'assistant' WHEN 'chatgpt' THEN 'assistant' WHEN 'bot' THEN 'assistant' WHEN 'prompter' THEN 'user'
    ELSE role END;
-- Some formats put a tool's result into a user's turn, others into a turn without a role.
CREATE MACRO role_of(turn) AS CASE
    WHEN list_distinct(json_extract_string(turn, '$.content[*].type')) = ['tool_result'] THEN 'tool'
    WHEN json_extract_string(turn, '$.role') IS NULL AND json_extract_string(turn, '$.type') LIKE '%call\_output' ESCAPE '\' THEN 'tool'
    WHEN json_extract_string(turn, '$.role') IS NULL AND is_call(turn) THEN 'assistant'
    ELSE turn_role(coalesce(turn ->> '$.role', turn ->> '$.from'))
END;
-- A turn that only calls a tool has no words, and some tools return none.
CREATE MACRO turns(list) AS CASE WHEN json_type(list) = 'ARRAY' THEN list_transform(
    list_filter(from_json(list, '["JSON"]'), lambda turn: NOT (coalesce(turn ->> '$.role', '') = '' AND is_thought(turn))),
    lambda turn: {
        'role': to_json(role_of(turn)),
        'content': to_json(coalesce(
            content_text(coalesce(parts_of(turn), given(json_extract(turn, '$.value')))),
            CASE WHEN role_of(turn) IN ('assistant', 'tool') AND coalesce(json_type(parts_of(turn)), 'ARRAY') = 'ARRAY'
                THEN coalesce(turn ->> '$.output', '') END))
    }) END;
-- The turns that alignment.ingest.chat made of a record: their contents are texts.
CREATE MACRO chat_turns(chat) AS from_json(json_extract(chat, '$.messages'), '[{"role":"JSON","content":"JSON"}]');
CREATE MACRO chat_tools(chat) AS from_json(json_extract(chat, '$.tools'), '["VARCHAR"]');
CREATE MACRO before_last(list) AS list[:-2];
CREATE MACRO last_answer(list) AS CASE WHEN list[-1].role::VARCHAR = '"assistant"' THEN list[-1].content END;

-- `^` would match again after every cut, so that an answer that begins with "Human:" would become another turn.
CREATE MACRO begun(text) AS chr(10) || chr(10) || ltrim(text, chr(10));
CREATE MACRO transcript(text) AS list_transform(
    list_zip(
        regexp_extract_all(begun(text), '\n\n(Human|Assistant):', 1),
        regexp_split_to_array(begun(text), '\n\n(?:Human|Assistant):[ ]?')[2:]),
    lambda pair: {
        'role': to_json(CASE pair[1] WHEN 'Human' THEN 'user' WHEN 'Assistant' THEN 'assistant' END), 'content': to_json(trim(pair[2]))});

-- The people named in a line that is no record: hashes of the values of the presets' user keys (see alignment.ids.subject_key).
CREATE MACRO named_keys(line, secret) AS list_transform(
    regexp_extract_all(
        line,
        '"(?:user_id|userId|user|end_user|safety_identifier|user_api_key_(?:end_)?user_id)"\s*:\s*"([^"\\]+)"', 1)
    || regexp_extract_all(line, '"(?:end)?user\.id"\s*,\s*"value"\s*:\s*\{\s*"stringValue"\s*:\s*"([^"\\]+)"', 1),
    lambda name: sha256(concat_ws(chr(31), secret, name, secret)));

CREATE MACRO request(line) AS coalesce(
    given(unpacked(json_extract(line, '$.request.body'))), given(unpacked(json_extract(line, '$.request'))));
CREATE MACRO answer_body(line) AS coalesce(
    given(unpacked(json_extract(line, '$.response.body'))), given(unpacked(json_extract(line, '$.response'))));

-- Alpaca's `input` and Dolly's `context` are the subject of the instruction or question: without them it makes no sense.
CREATE MACRO first_question(line) AS coalesce(given(json_extract(line, '$.question')), given(json_extract(line, '$.query')));
CREATE MACRO beside(line) AS CASE WHEN trim(coalesce(line ->> '$.system', line ->> '$.system_prompt', '')) <> ''
    THEN [{'role': to_json('system'), 'content': coalesce(given(json_extract(line, '$.system')), json_extract(line, '$.system_prompt'))}]
    ELSE [] END;
-- Earlier turns in LLaMA-Factory's form: pairs of a question and its answer.
CREATE MACRO earlier(line) AS flatten(list_transform(items(json_extract(line, '$.history')), lambda pair: [
    {'role': to_json('user'), 'content': json_extract(pair, '$[0]')}, {'role': to_json('assistant'), 'content': json_extract(pair, '$[1]')}]));
CREATE MACRO about(line) AS trim(regexp_replace(coalesce(nullif(line ->> '$.input', ''), line ->> '$.context', ''), '^(<noinput>|[Nn]o ?input)$', ''));
CREATE MACRO prompt_turns(line) AS beside(line) || earlier(line) || [{'role': to_json('user'), 'content': CASE
    WHEN given(json_extract(line, '$.prompt')) IS NOT NULL THEN json_extract(line, '$.prompt')
    WHEN json_type(line, '$.instruction') = 'VARCHAR' AND about(line) <> ''
    THEN to_json(concat_ws(chr(10) || chr(10), line ->> '$.instruction', coalesce(nullif(line ->> '$.input', ''), line ->> '$.context')))
    WHEN given(json_extract(line, '$.instruction')) IS NULL AND json_type(first_question(line)) = 'VARCHAR' AND trim(coalesce(line ->> '$.context', '')) <> ''
    THEN to_json(concat_ws(chr(10) || chr(10), first_question(line) ->> '$', line ->> '$.context'))
    ELSE coalesce(given(json_extract(line, '$.instruction')), first_question(line), given(json_extract(line, '$.input'))) END}];

-- Langfuse spells its fields in two ways, and writes nulls beside the values of the trace.
CREATE MACRO either(line, one, other) AS coalesce(line ->> one, line ->> other);
CREATE MACRO with_trace(line, one) AS json_merge_patch(one, json_object(
    'userId', coalesce(either(one, '$.userId', '$.user_id'), either(line, '$.userId', '$.user_id'), line ->> '$.trace.userId'),
    'sessionId', coalesce(either(one, '$.sessionId', '$.session_id'), either(line, '$.sessionId', '$.session_id'), line ->> '$.trace.sessionId'),
    -- A trace's scores belong to one of its observations, or to the trace.
    'scores', list_filter(
        items(coalesce(given(json_extract(one, '$.scores')), given(json_extract(line, '$.scores')), given(json_extract(line, '$.trace.scores')))),
        lambda score: coalesce(either(score, '$.observationId', '$.observation_id'), one ->> '$.id', '') = coalesce(one ->> '$.id', ''))));
CREATE MACRO generations(line) AS CASE
    WHEN json_type(line, '$.observations') = 'ARRAY' THEN list_transform(
        list_filter(from_json(json_extract(line, '$.observations'), '["JSON"]'), lambda one: one ->> '$.type' = 'GENERATION'),
        lambda one: with_trace(line, one))
    WHEN coalesce(line ->> '$.type', 'GENERATION') = 'GENERATION' THEN [line]
END;

-- A person's thumb in any wording; NULL for an unreadable value, which is counted. `list_contains`, because DuckDB turns a long IN (...) into
-- a join, which moves every column of every line.
CREATE MACRO thumb(value) AS CASE
    WHEN value IS NULL THEN NULL
    WHEN list_contains(['up', 'thumbs_up', 'thumbs-up', 'thumbs up', 'thumbsup', 'thumb_up', 'like', 'liked', 'upvote', 'positive', 'good', 'true',
        'helpful', ':+1:', ':thumbsup:'], lower(trim(value))) OR TRY_CAST(value AS DOUBLE) = 1 OR starts_with(trim(value), '👍') THEN 'up'
    WHEN list_contains(['down', 'thumbs_down', 'thumbs-down', 'thumbs down', 'thumbsdown', 'thumb_down', 'dislike', 'disliked', 'downvote', 'negative',
        'bad', 'false', 'unhelpful', ':-1:', ':thumbsdown:'], lower(trim(value))) OR TRY_CAST(value AS DOUBLE) = -1 OR starts_with(trim(value), '👎') THEN 'down'
END;

-- OTLP JSON: attributes are a list of keys and values. alignment.ingest.otel turns its calls into records.
CREATE MACRO attribute(attributes, name) AS
    list_filter(from_json(attributes, '[{"key":"VARCHAR","value":"JSON"}]'), lambda one: one.key = name)[1].value;
CREATE MACRO value_text(value) AS
    coalesce(value ->> '$.stringValue', value ->> '$.intValue', value ->> '$.boolValue', value ->> '$.doubleValue');
CREATE MACRO attribute_text(attributes, name) AS value_text(attribute(attributes, name));
CREATE MACRO packed_json(value) AS CASE WHEN json_valid(value ->> '$.stringValue') THEN (value ->> '$.stringValue')::JSON END;
-- All spans and log records of an OTLP document, for custom mappings: records = "spans_of(body)".
CREATE MACRO spans_of(line) AS flatten(list_transform(
    items(json_extract(line, '$.resourceSpans')),
    lambda resource: flatten(list_transform(
        items(json_extract(resource, '$.scopeSpans')), lambda scope: items(json_extract(scope, '$.spans'))))));
CREATE MACRO logs_of(line) AS flatten(list_transform(
    items(json_extract(line, '$.resourceLogs')),
    lambda resource: flatten(list_transform(
        items(json_extract(resource, '$.scopeLogs')), lambda scope: items(json_extract(scope, '$.logRecords'))))));
