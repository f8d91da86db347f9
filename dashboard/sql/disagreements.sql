-- Purpose: comparisons that labelers decided differently, newest first.
-- Parameters: $limit.
-- Grain: one comparison; if a labeler changed its vote, for example on new signals, its last vote counts.
WITH last AS (
    SELECT * FROM votes QUALIFY row_number() OVER (PARTITION BY judgement_id, labeler ORDER BY created_at DESC, id DESC) = 1
)
SELECT
    votes.judgement_id, any_value(interactions.prompt) AS prompt, any_value(first.text) AS first_answer,
    any_value(second.text) AS second_answer, max(votes.created_at) AS voted_at,
    string_agg(DISTINCT votes.labeler, ', ' ORDER BY votes.labeler) FILTER (votes.verdict = 'first') AS for_first,
    string_agg(DISTINCT votes.labeler, ', ' ORDER BY votes.labeler) FILTER (votes.verdict = 'second') AS for_second
FROM last AS votes
JOIN interactions ON interactions.id = votes.interaction_id
LEFT JOIN candidates AS first ON first.id = votes.first_id
LEFT JOIN candidates AS second ON second.id = votes.second_id
GROUP BY votes.judgement_id
HAVING for_first IS NOT NULL AND for_second IS NOT NULL
ORDER BY voted_at DESC, votes.judgement_id
LIMIT $limit
