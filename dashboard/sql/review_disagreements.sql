-- Purpose: items on which two people differ, or a person differs from the labelers' proposal or the gate's score; newest first.
-- Parameters: $between ('people', 'labelers', 'gate'), $kind, $side, $reviewer (NULL: any); $limit, $offset.
-- Grain: one item; `total` counts all matches, `said` holds each person's current verdict, oldest first. Where `disputed`, nothing trains.
WITH spoken AS (
    SELECT
        item_id, count(DISTINCT verdict || chr(31) || coalesce(edited_answer, '')) AS words, max(coalesce(seq, 0)) AS seq,
        max(decided_at) AS decided_at, list({'reviewer': reviewer, 'verdict': verdict, 'note': note} ORDER BY coalesce(seq, 0), decided_at) AS said
    FROM reviewer_verdicts
    WHERE verdict <> 'skip'
    GROUP BY item_id
),
found AS (
    SELECT
        items.id, items.kind, items.reason, items.proposal, items.prompt, items.answer_a, items.answer_b, items.detail ->> 'side' AS side,
        spoken.said, spoken.decided_at, spoken.seq, latest.verdict, latest.disputed,
        CASE WHEN spoken.words > 1 THEN 'people' WHEN items.kind = 'gate_audit' THEN 'gate' ELSE 'labelers' END AS between
    FROM spoken
    JOIN review_items AS items ON items.id = spoken.item_id
    JOIN latest_verdicts AS latest ON latest.item_id = items.id
    WHERE spoken.words > 1 OR (latest.verdict <> 'agree' AND (items.kind = 'gate_audit' OR coalesce(items.proposal, '') <> ''))
)
SELECT *, count(*) OVER () AS total
FROM found
WHERE ($between::VARCHAR IS NULL OR between = $between)
  AND ($kind::VARCHAR IS NULL OR kind = $kind)
  AND ($side::VARCHAR IS NULL OR side = $side)
  AND ($reviewer::VARCHAR IS NULL OR id IN (SELECT item_id FROM reviewer_verdicts WHERE reviewer = $reviewer AND verdict <> 'skip'))
ORDER BY disputed DESC, seq DESC, decided_at DESC, id
LIMIT $limit OFFSET $offset
