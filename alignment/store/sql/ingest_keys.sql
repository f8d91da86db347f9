-- Purpose: the top-level keys of a sample of the table `block`, with the kinds of their values: what changes when a source's schema does.
-- Parameters: none.
-- Grain: one key and kind, as key:KIND. Numbers are of one kind, a null tells nothing, and keys that are no plain names are left out.
WITH sample AS (SELECT line FROM block WHERE damage IS NULL AND json_valid(line) LIMIT 200),
keys AS (SELECT line, unnest(json_keys(line)) AS key FROM sample),
kinds AS (SELECT key, json_type(line, '$."' || key || '"') AS kind FROM keys WHERE regexp_full_match(key, '[A-Za-z0-9_.:-]{1,64}'))
SELECT DISTINCT key || ':' || CASE WHEN kind IN ('UBIGINT', 'BIGINT', 'DOUBLE', 'HUGEINT') THEN 'NUMBER' ELSE kind END
FROM kinds
WHERE kind <> 'NULL';
