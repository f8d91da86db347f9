-- Purpose: the gateway's log lines, without their texts.
-- Parameters: files, their paths.
-- Grain: one logged answer; a line that is damaged or unfinished is left out.
CREATE TEMP TABLE lines AS
SELECT
    try_strptime(left(created_at, 13), '%Y-%m-%dT%H') AS hour,
    CASE
        WHEN (gateway ->> '$.error') IS NOT NULL THEN 'no answer'
        WHEN (gateway ->> '$.action') = 'rewrite' AND (gateway -> '$.rewritten') = 'false'::JSON THEN 'refuse'
        ELSE gateway ->> '$.action'
    END AS action,
    (gateway ->> '$.milliseconds')::DOUBLE AS milliseconds,
    from_json(
        gateway -> '$.findings',
        '[{"rule": "VARCHAR", "check": "VARCHAR", "action": "VARCHAR", "mode": "VARCHAR", "error": "VARCHAR", "enforced": "BOOLEAN"}]'
    ) AS findings
FROM read_json($files, format = 'newline_delimited', ignore_errors = true, columns = {created_at: 'VARCHAR', gateway: 'JSON'})
WHERE gateway IS NOT NULL;
