-- Purpose: the kept exchanges of `incoming` that the store does not hold, each once.
-- Parameters: none; `incoming` has `position` and `keep`.
-- Grain: one exchange; of several with one id the first is taken. insert.sql then moves whole rows once.
SELECT min(position) AS position
FROM (SELECT id, position FROM incoming WHERE keep) AS arrived
ANTI JOIN interactions USING (id)
GROUP BY id;
