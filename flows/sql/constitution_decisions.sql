-- Purpose: a principle's recent decisions.
-- Parameters: name VARCHAR (id of the principle), since TIMESTAMP.
-- Grain: one labeler and one verdict; `margin` is the mean judge margin.
SELECT labeler, verdict, count(*) AS judgements, avg(judge_margin) AS margin, max(created_at) AS latest
FROM judgements
WHERE list_contains(principle_ids::VARCHAR[], $name) AND created_at >= $since
GROUP BY labeler, verdict
ORDER BY labeler, verdict;
