-- Purpose: which of the exchanges of `incoming` that are kept the store does not hold, each once.
-- Parameters: none; `incoming` has `position` and `keep`.
-- Grain: one exchange; of several with one id the first is taken. Whole rows are then moved once, by insert.sql.
SELECT min(position) AS position
FROM (SELECT id, position FROM incoming WHERE keep) AS arrived
ANTI JOIN interactions USING (id)
GROUP BY id;
