-- Purpose: how often people preferred the answer shown on the left, to see whether position decides.
-- Parameters: none.
-- Grain: one row, over each person's current verdict for one of two answers; verdicts from before positions were stored do not count.
SELECT
    count(*) AS n,
    count_if((verdict = 'agree' AND left_answer = 'a') OR (verdict = 'flip' AND left_answer = 'b')) AS on_the_left
FROM reviewer_verdicts AS spoken
JOIN review_items AS items ON items.id = spoken.item_id
WHERE verdict IN ('agree', 'flip') AND left_answer IS NOT NULL AND items.answer_b IS NOT NULL
