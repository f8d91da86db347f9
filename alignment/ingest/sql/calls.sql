-- Purpose: join calls whose question and answer are separate records: the last of these records becomes the call.
-- Parameters: none; reads the CTE `records` of parse.sql, whose place this text takes.
-- Grain: one record. A call of more than 1,000 records or 4 MiB, to which whoever writes the log could join all its lines, stays in halves.
SELECT
    records.* EXCLUDE (body),
    CASE
        WHEN whole IS NULL THEN body
        WHEN line_number = last.line AND record_number = last.record THEN whole
        ELSE json_merge_patch(body, '{"chat": {"part": true}}')
    END AS body
FROM records
LEFT JOIN (
    SELECT part AS of_part, call, last, join_calls(bodies) AS whole
    FROM (
        SELECT
            part, body ->> '$.chat.call' AS call, '[' || string_agg(body::VARCHAR, ',' ORDER BY line_number, record_number) || ']' AS bodies,
            max({'line': line_number, 'record': record_number}) AS last
        FROM records
        WHERE (body ->> '$.chat.call') <> ''
        GROUP BY ALL
        HAVING count(*) BETWEEN 2 AND 1000 AND sum(strlen(body::VARCHAR)) <= 4194304
    )
) ON of_part = part AND call = (body ->> '$.chat.call')
