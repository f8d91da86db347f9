-- Purpose: what the presets of alignment/ingest/presets.toml need to read other people's formats.
-- Parameters: none.
-- Grain: macros only. Within them `->` would be taken for a lambda, so it is written json_extract. A turn is STRUCT(role JSON, content JSON); what cannot be read is NULL and quarantines its line later.
CREATE MACRO unpacked(value) AS CASE
    WHEN json_type(value) = 'VARCHAR' AND regexp_matches(value ->> '$', '^\s*[\[{]') AND json_valid(value ->> '$') THEN (value ->> '$')::JSON
    ELSE value
END;
-- Times are texts, or seconds or milliseconds since 1970; what lies outside of DuckDB's years is no time.
CREATE MACRO instant(seconds) AS CASE WHEN abs(seconds) < 2.5e11 THEN to_timestamp(seconds)::VARCHAR END;
CREATE MACRO epoch_text(value) AS CASE
    WHEN json_type(value) = 'VARCHAR' THEN value ->> '$'
    ELSE instant(CASE WHEN TRY_CAST(value AS DOUBLE) > 1e11 THEN TRY_CAST(value AS DOUBLE) / 1000 ELSE TRY_CAST(value AS DOUBLE) END)
END;
-- A content is a text or a list of parts; parts without a text (images, calls) leave their type behind.
CREATE MACRO part_text(part) AS CASE WHEN json_type(part) = 'VARCHAR' THEN part ->> '$'
    ELSE coalesce(part ->> '$.text', part ->> '$.content', '[' || coalesce(part ->> '$.type', 'part') || ']') END;
CREATE MACRO content_text(content) AS CASE json_type(content)
    WHEN 'VARCHAR' THEN content ->> '$'
    WHEN 'ARRAY' THEN array_to_string(list_transform(from_json(content, '["JSON"]'), lambda part: part_text(part)), chr(10))
END;
CREATE MACRO turn_role(role) AS CASE role
    WHEN 'developer' THEN 'system' WHEN 'function' THEN 'tool' WHEN 'model' THEN 'assistant' WHEN 'ai' THEN 'assistant' WHEN 'human' THEN 'user'
    ELSE role END;
-- A turn that only calls a tool has no content.
CREATE MACRO turns(list) AS CASE WHEN json_type(list) = 'ARRAY' THEN list_transform(from_json(list, '["JSON"]'), lambda turn: {
    'role': to_json(turn_role(turn ->> '$.role')),
    'content': to_json(coalesce(
        content_text(coalesce(json_extract(turn, '$.content'), json_extract(turn, '$.parts'))),
        CASE WHEN turn ->> '$.role' = 'assistant' AND coalesce(json_type(turn, '$.content'), 'NULL') = 'NULL' THEN '' END))
}) END;
CREATE MACRO before_last(list) AS list[:-2];
CREATE MACRO last_answer(list) AS CASE WHEN list[-1].role::VARCHAR = '"assistant"' THEN list[-1].content END;

-- `^` would match again behind every cut, so that an answer which begins with "Human:" would be one turn more.
CREATE MACRO begun(text) AS chr(10) || chr(10) || ltrim(text, chr(10));
CREATE MACRO transcript(text) AS list_transform(
    list_zip(
        regexp_extract_all(begun(text), '\n\n(Human|Assistant):', 1),
        regexp_split_to_array(begun(text), '\n\n(?:Human|Assistant):[ ]?')[2:]),
    lambda pair: {
        'role': to_json(CASE pair[1] WHEN 'Human' THEN 'user' WHEN 'Assistant' THEN 'assistant' END), 'content': to_json(trim(pair[2]))});

-- Whom a line names that is no record: the hashes of what stands behind the presets' keys for a person (see alignment.ids.subject_key).
CREATE MACRO named_keys(line, secret) AS list_transform(
    regexp_extract_all(
        line,
        '"(?:user_id|userId|user|end_user|safety_identifier|user_api_key_(?:end_)?user_id)"\s*:\s*"([^"\\]+)"', 1)
    || regexp_extract_all(line, '"(?:end)?user\.id"\s*,\s*"value"\s*:\s*\{\s*"stringValue"\s*:\s*"([^"\\]+)"', 1),
    lambda name: sha256(concat_ws(chr(31), secret, name, secret)));

CREATE MACRO request(line) AS coalesce(unpacked(json_extract(line, '$.request.body')), unpacked(json_extract(line, '$.request')));
CREATE MACRO answer_body(line) AS coalesce(unpacked(json_extract(line, '$.response.body')), unpacked(json_extract(line, '$.response')));

CREATE MACRO generations(line) AS CASE
    WHEN json_type(line, '$.observations') = 'ARRAY' THEN list_transform(
        list_filter(from_json(json_extract(line, '$.observations'), '["JSON"]'), lambda one: one ->> '$.type' = 'GENERATION'),
        lambda one: json_merge_patch(
            json_object('userId', coalesce(json_extract(line, '$.userId'), json_extract(line, '$.trace.userId')),
                'sessionId', coalesce(json_extract(line, '$.sessionId'), json_extract(line, '$.trace.sessionId'))), one))
    WHEN coalesce(line ->> '$.type', 'GENERATION') = 'GENERATION' THEN [line]
END;
CREATE MACRO langfuse_input(input) AS CASE
    WHEN json_type(input) = 'ARRAY' THEN turns(input)
    WHEN json_type(input, '$.messages') = 'ARRAY' THEN turns(json_extract(input, '$.messages'))
    WHEN json_type(input) = 'VARCHAR' THEN [{'role': to_json('user'), 'content': input}]
END;
CREATE MACRO langfuse_output(output) AS coalesce(
    content_text(json_extract(output, '$.content')), content_text(json_extract(output, '$.choices[0].message.content')), content_text(json_extract(output, '$[0].content')),
    CASE WHEN json_type(output) = 'VARCHAR' THEN output ->> '$' END);

-- OTLP JSON: attributes are a list of keys and values; a message is a JSON text or nested the same way.
CREATE MACRO attribute(attributes, name) AS
    list_filter(from_json(attributes, '[{"key":"VARCHAR","value":"JSON"}]'), lambda one: one.key = name)[1].value;
CREATE MACRO value_text(value) AS
    coalesce(value ->> '$.stringValue', value ->> '$.intValue', value ->> '$.boolValue', value ->> '$.doubleValue');
CREATE MACRO attribute_text(attributes, name) AS value_text(attribute(attributes, name));
CREATE MACRO packed_json(value) AS CASE WHEN json_valid(value ->> '$.stringValue') THEN (value ->> '$.stringValue')::JSON END;
CREATE MACRO nested_parts(value) AS array_to_string(list_transform(
    from_json(json_extract(value, '$.arrayValue.values'), '["JSON"]'),
    lambda part: coalesce(attribute_text(json_extract(part, '$.kvlistValue.values'), 'content'),
        '[' || coalesce(attribute_text(json_extract(part, '$.kvlistValue.values'), 'type'), 'part') || ']')), chr(10));
CREATE MACRO otel_turns(value) AS CASE
    WHEN json_type(value, '$.stringValue') = 'VARCHAR' THEN turns(packed_json(value))
    ELSE list_transform(from_json(json_extract(value, '$.arrayValue.values'), '["JSON"]'), lambda turn: {
        'role': to_json(turn_role(attribute_text(json_extract(turn, '$.kvlistValue.values'), 'role'))),
        'content': to_json(nested_parts(attribute(json_extract(turn, '$.kvlistValue.values'), 'parts')))})
END;
CREATE MACRO otel_system(value) AS CASE WHEN value IS NULL THEN [] ELSE [{
    'role': to_json('system'), 'content': to_json(coalesce(content_text(packed_json(value)), nested_parts(value)))}] END;
CREATE MACRO genai_spans(line) AS list_filter(
    flatten(list_transform(
        from_json(json_extract(line, '$.resourceSpans'), '["JSON"]'),
        lambda resource: flatten(list_transform(
            from_json(coalesce(json_extract(resource, '$.scopeSpans'), '[]'::JSON), '["JSON"]'),
            lambda scope: from_json(coalesce(json_extract(scope, '$.spans'), '[]'::JSON), '["JSON"]'))))),
    lambda span: attribute(json_extract(span, '$.attributes'), 'gen_ai.output.messages') IS NOT NULL);
