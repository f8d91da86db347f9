-- Purpose: stored exchanges that are delivered again for another purpose than training, in any order of a block's lines.
-- Parameters: none; reads `incoming` as insert.sql does, after it.
-- Grain: one exchange.
SELECT DISTINCT id
FROM (SELECT id FROM incoming WHERE keep AND purpose <> 'training') AS arrived
JOIN interactions USING (id)
WHERE interactions.purpose = 'training';
