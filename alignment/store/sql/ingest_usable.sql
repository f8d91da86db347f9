-- Purpose: the usable lines of `parsed`, with the texts of `masked` in place of those that held personal data.
-- Parameters: source_file VARCHAR, ingested_at TIMESTAMP.
-- Grain: one row a usable line; an id repeats where its line was delivered twice.
SELECT
    parsed.id, $source_file AS source_file, parsed.line_number, conversation_id, session_id, user_id, created_at, model,
    coalesce(masked.messages, parsed.messages::VARCHAR) AS messages,
    coalesce(masked.prompt, parsed.prompt) AS prompt,
    coalesce(masked.response, parsed.response) AS response,
    consent,
    coalesce(masked.pii, '{}') AS pii,
    $ingested_at::TIMESTAMP AS ingested_at,
    thumbs,
    CASE WHEN regenerated THEN 'true' END AS regenerated,
    CASE WHEN masked.line_number IS NULL THEN parsed.edit ELSE masked.edit END AS edit
FROM parsed LEFT JOIN masked USING (line_number)
WHERE reason IS NULL
ORDER BY parsed.line_number;
