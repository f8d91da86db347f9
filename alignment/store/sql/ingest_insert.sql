-- Purpose: append the exchanges of `incoming` that are kept and that the store does not hold, each once.
-- Parameters: source_file VARCHAR, ingested_at TIMESTAMP. `incoming` has `position` and `keep`; `masked` holds, by position, the rows
--   whose texts were looked through for personal data, as they are to be stored.
-- Grain: one exchange; of several with one id the first is taken.
INSERT INTO interactions BY NAME
WITH fresh AS MATERIALIZED (
    -- Which rows are new is found on ids alone; whole rows are then moved once.
    SELECT min(position) AS position
    FROM (SELECT id, position FROM incoming WHERE keep) AS arrived
    ANTI JOIN interactions USING (id)
    GROUP BY id
),
clean AS (
    SELECT
        id, line_number, conversation_id, session_id, user_id, created_at, model, messages, prompt, response, consent, purpose, '{}' AS pii
    FROM incoming
    SEMI JOIN fresh USING (position)
    WHERE NOT personal
)
SELECT *, $source_file AS source_file, $ingested_at::TIMESTAMP AS ingested_at
FROM (FROM clean UNION ALL BY NAME SELECT * EXCLUDE (position) FROM masked SEMI JOIN fresh USING (position));
