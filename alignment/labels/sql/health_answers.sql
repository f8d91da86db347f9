-- Purpose: harmless prompts that both models answered in a gate, with both answers.
-- Parameters: champion VARCHAR, base VARCHAR (ids of the models).
-- Grain: one prompt of one version of a suite.
SELECT
    suite, suite_version, prompt_id,
    any_value(response) FILTER (model_id = $champion) AS champion,
    any_value(response) FILTER (model_id = $base) AS base
FROM eval_answers
WHERE suite IN ('lookalike', 'ordinary') AND model_id IN ($champion, $base)
GROUP BY suite, suite_version, prompt_id
HAVING champion IS NOT NULL AND base IS NOT NULL
ORDER BY suite, suite_version, prompt_id;
