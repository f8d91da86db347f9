-- Purpose: answers that were changed since they were stored, or whose verdict was.
-- Parameters: none.
-- Grain: one answer.
SELECT DISTINCT answers.id
FROM eval_answers AS answers
LEFT JOIN eval_scores AS scores ON scores.answer_id = answers.id
WHERE answers.digest IS DISTINCT FROM sha256(concat_ws(chr(31), answers.id, answers.prompt, answers.response))
    OR (scores.id IS NOT NULL AND scores.digest IS DISTINCT FROM sha256(concat_ws(
        chr(31), scores.answer_id, scores.scorer, scores.scorer_version, scores.scores::VARCHAR, coalesce(scores.outcome::VARCHAR, 'null')
    )))
