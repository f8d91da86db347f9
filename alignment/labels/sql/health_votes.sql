-- Purpose: preferences of a self-rewarding labeler, and those of the anchor and of people on the same two answers.
-- Parameters: labeler VARCHAR, version VARCHAR (of the labeler), anchor VARCHAR (name of the frozen judge).
-- Grain: one pair of answers that the labeler voted on. `anchor_id` is the anchor's first preference, which never changes;
-- `human_id` is the preference of the last human verdict; each is NULL if there is none. A preference is the id of the better answer.
WITH spoken AS (
    SELECT
        interaction_id, labeler, labeler_version, margin, created_at, id,
        CASE verdict WHEN 'first' THEN first_id ELSE second_id END AS chosen_id,
        least(first_id, second_id) || ' ' || greatest(first_id, second_id) AS answers
    FROM votes
    WHERE verdict IN ('first', 'second')
),
anchored AS (
    SELECT interaction_id, answers, arg_min(chosen_id, (created_at, id)) AS chosen_id
    FROM spoken
    WHERE labeler = $anchor
    GROUP BY interaction_id, answers
),
ruled AS (
    SELECT
        review_items.interaction_id,
        least(chosen_id, rejected_id) || ' ' || greatest(chosen_id, rejected_id) AS answers,
        arg_max(CASE verdicts.verdict WHEN 'agree' THEN chosen_id ELSE rejected_id END, (coalesce(seq, 0), decided_at)) AS chosen_id
    FROM latest_verdicts AS verdicts
    JOIN review_items ON review_items.id = verdicts.item_id
    JOIN judgements ON judgements.id = (review_items.detail ->> 'judgement_id')
    WHERE verdicts.verdict IN ('agree', 'flip') AND NOT verdicts.disputed
    GROUP BY ALL
)
SELECT
    spoken.interaction_id || ' ' || spoken.answers AS comparison, spoken.chosen_id, spoken.margin,
    anchored.chosen_id AS anchor_id, ruled.chosen_id AS human_id
FROM spoken
LEFT JOIN anchored USING (interaction_id, answers)
LEFT JOIN ruled USING (interaction_id, answers)
WHERE spoken.labeler = $labeler AND spoken.labeler_version = $version
QUALIFY row_number() OVER (PARTITION BY comparison ORDER BY spoken.created_at DESC, spoken.id) = 1
ORDER BY comparison;
