-- Purpose: the users that drift compares, with the mean of their exchanges on the day on which they count.
-- Parameters: since DATE, until DATE (not included), most BIGINT (users per day; a hash draws them).
-- Grain: one user in one of their own weeks, which begin on a weekday that a hash draws: the first day with exchanges counts. Weeks that
--   began before `since` are left out, since their first day may be before it. `baseline_lag`: 0 for users compared on this day, otherwise the
--   days after which they are the baseline of the same weekday. Rows come in an order that is independent of what users wrote.
WITH daily AS (
    SELECT
        asker, day, day - DATE '1970-01-01' AS number,
        left(arg_min(prompt, created_at), 400) AS prompt,
        count(*)::DOUBLE AS exchanges,
        avg(ln(1 + prompt_length)) AS prompt_length,
        avg(ln(1 + response_length)) AS response_length,
        avg(harmful_request) AS harmful_request,
        avg(harmful_answer) AS harmful_answer,
        avg(toxicity) AS toxicity,
        avg(refusal) AS refusal,
        avg(pii) AS pii,
        avg(guard) AS guard,
        avg(complained) AS complained,
        avg(praised) AS praised,
        avg(labeler_agreement) AS labeler_agreement,
        avg((category IS NOT DISTINCT FROM 'violence')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_violence,
        avg((category IS NOT DISTINCT FROM 'weapons')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_weapons,
        avg((category IS NOT DISTINCT FROM 'self_harm')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_self_harm,
        avg((category IS NOT DISTINCT FROM 'hate')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_hate,
        avg((category IS NOT DISTINCT FROM 'sexual')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_sexual,
        avg((category IS NOT DISTINCT FROM 'crime')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_crime,
        avg((category IS NOT DISTINCT FROM 'fraud')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_fraud,
        avg((category IS NOT DISTINCT FROM 'privacy')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_privacy,
        avg((category IS NOT DISTINCT FROM 'malware')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_malware,
        avg((category IS NOT DISTINCT FROM 'misinformation')::INTEGER) FILTER (harmful_request IS NOT NULL) AS harm_misinformation
    FROM traffic_values($since, $until)
    GROUP BY asker, day
),
phased AS (
    SELECT *, (md5_number_lower(asker) % 7)::BIGINT AS phase, (number + phase) // 7 AS week
    FROM daily
),
counted AS (
    SELECT *, md5_number_lower(concat_ws(chr(31), asker, day)) AS draw, md5_number_upper(concat_ws(chr(31), asker, day)) AS place
    FROM phased
    WHERE week * 7 - phase >= $since::DATE - DATE '1970-01-01'
    QUALIFY number = min(number) OVER (PARTITION BY asker, week)
)
SELECT
    * EXCLUDE (asker, number, phase, week, draw, place),
    CASE WHEN draw % 16 < 8 THEN 0 WHEN draw % 16 < 10 THEN 7 WHEN draw % 16 < 11 THEN 14 WHEN draw % 16 < 12 THEN 21 ELSE 28 END AS baseline_lag
FROM counted
QUALIFY row_number() OVER (PARTITION BY day ORDER BY place, asker) <= $most
ORDER BY day, place, asker
