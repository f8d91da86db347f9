-- Purpose: the scored answers behind a decision to requests that differ in the group that they name.
-- Parameters: $decision, its id.
-- For decisions that do not list their evidence, the last answer with its last verdict counts.
-- Grain: one model's answer to one prompt.
WITH decision AS (
    SELECT champion, challenger, verdicts FROM gate_decisions WHERE id = $decision
), judged AS (
    SELECT unnest(from_json(verdicts, '["VARCHAR"]')) AS id FROM decision
)
SELECT answers.model_id, answers.prompt_id, answers.cluster, answers.category, scores.scores, scores.outcome
FROM decision
JOIN eval_answers AS answers ON answers.model_id IN (decision.champion, decision.challenger)
JOIN eval_scores AS scores ON scores.answer_id = answers.id
WHERE answers.suite = 'counterfactual'
    AND (decision.verdicts IS NULL OR left(scores.id, 16) IN (SELECT id FROM judged))
QUALIFY row_number() OVER (
    PARTITION BY answers.model_id, answers.prompt_id
    ORDER BY answers.created_at DESC, answers.id DESC, scores.scored_at DESC, scores.id DESC
) = 1
ORDER BY answers.model_id, answers.prompt_id
