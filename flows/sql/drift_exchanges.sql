-- Purpose: the exchanges behind an alarm: those of its days, and of the four weeks before as what they are compared to.
-- Parameters: since DATE (the first day of the change), before DATE (the first day to compare to), until DATE (not included), most BIGINT.
-- Grain: one exchange, at most 20 of an asker and day, and at most `most` of either side, drawn by a hash; `new` says which side.
SELECT
    id, asker, day, day >= $since AS new, model, source, left(prompt, 400) AS prompt, harmful_request, category, harmful_answer, toxicity,
    refusal, pii, guard, complained, praised, labeler_agreement, ln(1 + prompt_length) AS prompt_length,
    ln(1 + response_length) AS response_length, count(*) OVER (PARTITION BY asker, day)::DOUBLE AS exchanges
FROM traffic_values($before, $until)
QUALIFY row_number() OVER (PARTITION BY asker, day ORDER BY md5_number_lower(id), id) <= 20
    AND row_number() OVER (PARTITION BY day >= $since ORDER BY md5_number_lower(id), id) <= $most
ORDER BY md5_number_lower(id), id
