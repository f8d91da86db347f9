-- Purpose: the answers of champion and challenger to the same suite prompts, side by side.
-- Parameters: $champion, $challenger; $suite or NULL for all; $change one of better, worse, changed or NULL for all; $limit, $offset.
-- Only answers with a stored verdict: what 'align eval' samples or asks at another length is not what the gate judged.
-- Grain: one suite prompt; `total` is the number of rows without limit and offset. Worse answers come first.
WITH scored AS (
    SELECT
        answers.model_id, answers.suite, answers.prompt_id, answers.prompt, answers.category,
        answers.response, scores.outcome
    FROM eval_answers AS answers
    JOIN eval_scores AS scores ON scores.answer_id = answers.id
    WHERE answers.model_id IN ($champion, $challenger)
        AND answers.suite <> 'retention' -- good answers that are weighed, which no model gave
    QUALIFY row_number() OVER (
        PARTITION BY answers.model_id, answers.suite, answers.prompt_id, answers.prompt
        ORDER BY answers.created_at DESC, answers.id DESC, scores.scored_at DESC NULLS LAST, scores.id DESC
    ) = 1
), compared AS (
    SELECT
        suite, prompt_id, prompt, before.category,
        before.response AS champion_answer, before.outcome AS champion_outcome,
        after.response AS challenger_answer, after.outcome AS challenger_outcome,
        CASE
            WHEN before.outcome IS NULL OR after.outcome IS NULL THEN 'unscored'
            WHEN after.outcome > before.outcome THEN 'worse'
            WHEN after.outcome < before.outcome THEN 'better'
            ELSE 'same'
        END AS change
    FROM scored AS before
    JOIN scored AS after USING (suite, prompt_id, prompt)
    WHERE before.model_id = $champion AND after.model_id = $challenger
)
SELECT *, count(*) OVER () AS total
FROM compared
WHERE ($suite::VARCHAR IS NULL OR suite = $suite)
    AND (
        $change::VARCHAR IS NULL
        OR change = $change
        OR ($change = 'changed' AND change IN ('better', 'worse'))
    )
ORDER BY array_position(['worse', 'better', 'unscored', 'same'], change), suite, prompt_id
LIMIT $limit OFFSET $offset
