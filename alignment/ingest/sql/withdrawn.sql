-- Purpose: the exchanges that are delivered again for another purpose than training, in whichever order the lines of a block come.
-- Parameters: none; reads `incoming` as insert.sql does, after it.
-- Grain: one exchange.
SELECT DISTINCT id
FROM (SELECT id FROM incoming WHERE keep AND purpose <> 'training') AS arrived
JOIN interactions USING (id)
WHERE interactions.purpose = 'training';
