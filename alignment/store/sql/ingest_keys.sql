-- Purpose: the top-level keys of a sample of the table `block`, with the kinds of their values: what changes when a source's schema does.
-- Parameters: none.
-- Grain: one key and kind, as key:KIND. Numbers are of one kind, and a key that may be null is not told apart.
WITH sample AS (SELECT line FROM block WHERE damage IS NULL AND json_valid(line) LIMIT 200),
keys AS (SELECT line, unnest(json_keys(line)) AS key FROM sample)
SELECT DISTINCT key || ':' || CASE WHEN kind IN ('UBIGINT', 'BIGINT', 'DOUBLE', 'HUGEINT') THEN 'NUMBER' ELSE kind END
FROM (SELECT key, json_type(line, '$."' || replace(key, '"', '') || '"') AS kind FROM keys)
WHERE kind <> 'NULL';
