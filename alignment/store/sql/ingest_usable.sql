-- Purpose: the usable lines of `parsed`, with the texts of `masked` in place of those that held personal data.
-- Parameters: source_file VARCHAR, ingested_at TIMESTAMP.
-- Grain: one row a usable line; an id repeats where its line was delivered twice.
SELECT
    parsed.id, $source_file AS source_file, parsed.line_number,
    coalesce(masked.conversation_id, parsed.conversation_id) AS conversation_id,
    coalesce(masked.session_id, parsed.session_id) AS session_id,
    coalesce(masked.user_id, parsed.user_id) AS user_id,
    created_at,
    coalesce(masked.model, parsed.model) AS model,
    coalesce(masked.messages, parsed.messages::VARCHAR) AS messages,
    coalesce(masked.prompt, parsed.prompt) AS prompt,
    coalesce(masked.response, parsed.response) AS response,
    consent,
    coalesce(masked.pii, '{}') AS pii,
    $ingested_at::TIMESTAMP AS ingested_at,
    thumbs,
    CASE WHEN regenerated THEN 'true' END AS regenerated,
    CASE WHEN masked.line_number IS NULL THEN parsed.edit ELSE masked.edit END AS edit,
    CASE WHEN said_no THEN 'true' END AS no_consent
FROM parsed LEFT JOIN masked USING (line_number)
WHERE reason IS NULL
ORDER BY parsed.line_number;
