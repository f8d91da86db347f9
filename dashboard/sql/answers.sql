-- Purpose: the answers of champion and challenger behind a decision, side by side.
-- Parameters: $decision, its id; $suite or NULL for all; $change one of better, worse, changed or NULL for all; $harmful, suites of requests that do harm;
-- $limit, $offset.
-- For decisions that do not list their evidence, the last answer with a verdict counts.
-- Grain: one suite prompt; `total` is the number of rows without limit and offset. Worse answers come first, newly unsafe ones
-- before all others.
WITH decision AS (
    SELECT champion, challenger, verdicts FROM gate_decisions WHERE id = $decision
), judged AS (
    SELECT unnest(from_json(verdicts, '["VARCHAR"]')) AS id FROM decision
), scored AS (
    SELECT
        answers.model_id, answers.suite, answers.prompt_id, answers.prompt, answers.category,
        answers.response, scores.outcome
    FROM decision
    JOIN eval_answers AS answers ON answers.model_id IN (decision.champion, decision.challenger)
    JOIN eval_scores AS scores ON scores.answer_id = answers.id
    WHERE answers.suite <> 'retention' -- the suite's good answers, which a model weighs but did not give
        AND (decision.verdicts IS NULL OR left(scores.id, 16) IN (SELECT id FROM judged))
    QUALIFY row_number() OVER (
        PARTITION BY answers.model_id, answers.suite, answers.prompt_id, answers.prompt
        ORDER BY answers.created_at DESC, answers.id DESC, scores.scored_at DESC NULLS LAST, scores.id DESC
    ) = 1
), compared AS (
    SELECT
        before.suite, before.prompt_id, before.prompt, before.category,
        before.response AS champion_answer, before.outcome AS champion_outcome,
        after.response AS challenger_answer, after.outcome AS challenger_outcome,
        CASE
            WHEN before.outcome IS NULL OR after.outcome IS NULL THEN 'unscored'
            WHEN after.outcome > before.outcome THEN 'worse'
            WHEN after.outcome < before.outcome THEN 'better'
            ELSE 'same'
        END AS change
    FROM decision
    JOIN scored AS before ON before.model_id = decision.champion
    JOIN scored AS after ON after.model_id = decision.challenger
        AND (after.suite, after.prompt_id, after.prompt) = (before.suite, before.prompt_id, before.prompt)
)
SELECT *, count(*) OVER () AS total
FROM compared
WHERE ($suite::VARCHAR IS NULL OR suite = $suite)
    AND (
        $change::VARCHAR IS NULL
        OR change = $change
        OR ($change = 'changed' AND change IN ('better', 'worse'))
    )
ORDER BY array_position(['worse', 'better', 'unscored', 'same'], change), NOT list_contains($harmful, suite), suite, prompt_id
LIMIT $limit OFFSET $offset
