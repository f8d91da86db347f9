-- Purpose: append the exchanges of `incoming` that the store does not hold, each once.
-- Parameters: none; `incoming` is the interactions' columns and `position`.
-- Grain: one exchange; of several with one id the first is taken.
INSERT INTO interactions BY NAME
SELECT * EXCLUDE (position) FROM incoming
SEMI JOIN (
    SELECT min(position) AS position
    FROM (SELECT id, position FROM incoming) AS arrived
    ANTI JOIN interactions USING (id)
    GROUP BY id
) AS fresh USING (position);
