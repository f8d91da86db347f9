-- Purpose: stored answers with their verdicts, and whether both are unchanged.
-- Parameters: $ids, addresses of answers; $version of the scorers.
-- Grain: one answer and one scorer's verdict on it; without a verdict the scorer's columns are NULL.
SELECT
    answers.id, answers.prompt, answers.response, scores.id AS score_id, scores.scorer, scores.scores, scores.outcome,
    answers.digest IS NOT DISTINCT FROM sha256(concat_ws(chr(31), answers.id, answers.prompt, answers.response)) AS answer_holds,
    scores.digest IS NOT DISTINCT FROM sha256(concat_ws(
        chr(31), scores.answer_id, scores.scorer, scores.scorer_version, scores.scores::VARCHAR, coalesce(scores.outcome::VARCHAR, 'null')
    )) AS score_holds
FROM eval_answers AS answers
LEFT JOIN eval_scores AS scores ON scores.answer_id = answers.id AND scores.scorer_version = $version
WHERE list_contains($ids, answers.id)
