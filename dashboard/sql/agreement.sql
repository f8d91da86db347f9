-- Purpose: how often two labelers, or a labeler and a person, preferred the same answer.
-- Parameters: none.
-- Grain: one pair of voters; a person's verdict is compared with the votes on the comparison that the person saw.
WITH said AS (
    SELECT interaction_id, first_id, second_id, judgement_id, labeler, verdict
    FROM votes
    WHERE verdict IN ('first', 'second')
    QUALIFY row_number() OVER (PARTITION BY first_id, second_id, labeler ORDER BY created_at DESC, id DESC) = 1
),
people AS (
    SELECT
        judgements.chosen_id, judgements.rejected_id,
        CASE latest_verdicts.verdict WHEN 'agree' THEN judgements.chosen_id ELSE judgements.rejected_id END AS preferred
    FROM review_items
    JOIN latest_verdicts ON latest_verdicts.item_id = review_items.id
    JOIN judgements ON judgements.id = (review_items.detail ->> 'judgement_id')
    WHERE latest_verdicts.verdict IN ('agree', 'flip') AND NOT latest_verdicts.disputed
),
everybody AS (
    SELECT first_id, second_id, labeler, CASE verdict WHEN 'first' THEN first_id ELSE second_id END AS preferred FROM said
    UNION ALL
    SELECT least(chosen_id, rejected_id), greatest(chosen_id, rejected_id), 'human', preferred FROM people
),
keyed AS (
    SELECT least(first_id, second_id) AS one, greatest(first_id, second_id) AS other, labeler, preferred FROM everybody
)
SELECT a.labeler AS left_labeler, b.labeler AS right_labeler, count(*) AS shared, count(*) FILTER (a.preferred = b.preferred) AS agreed
FROM keyed AS a
JOIN keyed AS b ON a.one = b.one AND a.other = b.other AND a.labeler < b.labeler
GROUP BY ALL
ORDER BY ALL
