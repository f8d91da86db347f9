-- Purpose: how much of the store each of some principles decided.
-- Parameters: names VARCHAR[] (ids of principles).
-- Grain: one of the principles.
SELECT
    name,
    (SELECT count(DISTINCT id) FROM pairs WHERE list_contains(principle_ids::VARCHAR[], name)) AS pairs,
    (SELECT count(*) FROM judgements WHERE list_contains(principle_ids::VARCHAR[], name)) AS judgements
FROM (SELECT DISTINCT unnest($names::VARCHAR[]) AS name)
ORDER BY name;
