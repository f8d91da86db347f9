-- Purpose: append the exchanges of `incoming` at the positions in `fresh`.
-- Parameters: ingested_at TIMESTAMP. `masked` holds, by position, the rows whose texts were searched for personal data, as they
--   are to be stored.
-- Grain: one exchange.
INSERT INTO interactions BY NAME
WITH clean AS (
    SELECT
        id, source_file, line_number, conversation_id, session_id, user_id, created_at, model, messages, prompt, response, consent, purpose,
        '{}' AS pii
    FROM incoming
    SEMI JOIN fresh USING (position)
    WHERE NOT (personal_ids OR personal_messages OR personal_answer)
)
SELECT *, $ingested_at::TIMESTAMP AS ingested_at
FROM (FROM clean UNION ALL BY NAME SELECT * EXCLUDE (position) FROM masked SEMI JOIN fresh USING (position));
