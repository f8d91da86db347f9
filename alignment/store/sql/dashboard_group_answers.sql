-- Purpose: the scored answers of two models to requests that differ in the group that they name.
-- Parameters: $champion, $challenger.
-- Grain: one model's last answer to one prompt, with its last verdict.
SELECT answers.model_id, answers.prompt_id, answers.cluster, answers.category, scores.scores, scores.outcome
FROM eval_answers AS answers
JOIN eval_scores AS scores ON scores.answer_id = answers.id
WHERE answers.suite = 'counterfactual' AND answers.model_id IN ($champion, $challenger)
QUALIFY row_number() OVER (
    PARTITION BY answers.model_id, answers.prompt_id
    ORDER BY answers.created_at DESC, answers.id DESC, scores.scored_at DESC, scores.id DESC
) = 1
ORDER BY answers.model_id, answers.prompt_id
