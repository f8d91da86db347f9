-- Purpose: the log files that held lines of a person.
-- Parameters: none; reads the table `doomed` that erase_doomed made.
-- Grain: one path.
SELECT DISTINCT path
FROM source_files
SEMI JOIN (
    SELECT source_file FROM interactions SEMI JOIN doomed ON doomed.table_name = 'interactions' AND doomed.id = interactions.id
    UNION ALL
    SELECT source_file FROM quarantine SEMI JOIN doomed ON doomed.table_name = 'quarantine' AND doomed.id = quarantine.id
) AS lines ON lines.source_file = source_files.id
ORDER BY path;
