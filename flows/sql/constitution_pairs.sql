-- Purpose: the pairs that a principle decided.
-- Parameters: name VARCHAR (id of the principle), since TIMESTAMP.
-- Grain: one kind of chosen and one of rejected answer; `lately` counts those built since `since`.
SELECT chosen_kind, rejected_kind, count(DISTINCT id) AS pairs, count(DISTINCT id) FILTER (built_at >= $since) AS lately
FROM pairs
WHERE list_contains(principle_ids::VARCHAR[], $name)
GROUP BY chosen_kind, rejected_kind
ORDER BY pairs DESC, chosen_kind, rejected_kind;
