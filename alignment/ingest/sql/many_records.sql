-- Purpose: the records in each line of a block, for sources with several records per line.
-- Parameters: none; reads the CTE `valid` of parse.sql, into which this text is inserted.
--   @…@ is replaced by the source's expression for the list of records (settings, not data).
-- Grain: one record. A line without records keeps one row, so that it is counted.
SELECT part, file_time, line_number, generate_subscripts(found, 1) AS record_number, line, damage, document, unnest(found) AS body
FROM (
    SELECT *, CASE WHEN len(coalesce(held, [])) = 0 THEN [NULL] ELSE held END AS found
    FROM (SELECT *, CASE WHEN document IS NOT NULL THEN (@records@) END AS held FROM valid)
)
