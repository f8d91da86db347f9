-- Purpose: the log files that held lines of a person, or whose name holds the person's id (ids of under four letters occur in too many names).
-- Parameters: forms VARCHAR[] (as in erase_doomed); reads the table `doomed` made by erase_doomed.
-- Grain: one path.
SELECT DISTINCT path
FROM source_files
LEFT JOIN (
    SELECT source_file FROM interactions SEMI JOIN doomed ON doomed.table_name = 'interactions' AND doomed.id = interactions.id
    UNION ALL
    SELECT source_file FROM quarantine SEMI JOIN doomed ON doomed.table_name = 'quarantine' AND doomed.id = quarantine.id
) AS lines ON lines.source_file = source_files.id
WHERE lines.source_file IS NOT NULL OR len(list_filter($forms::VARCHAR[], lambda form: strlen(form) >= 4 AND contains(path, form))) > 0
ORDER BY path;
