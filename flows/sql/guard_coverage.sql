-- Purpose: what each guard, in its current version, has scored, flagged and abstained from.
-- Parameters: guards VARCHAR[] ('detector@version').
-- Grain: one guard. `uncovered` exchanges have no score of this guard: it `abstained`, or was not asked yet (`waiting`).
WITH named AS (SELECT unnest($guards::VARCHAR[]) AS name),
asked AS (SELECT id FROM interactions ANTI JOIN seeds USING (id)),
scored AS (
    SELECT detector || '@' || version AS name, interaction_id, bool_or(flagged) AS flagged
    FROM detections
    SEMI JOIN named ON named.name = detector || '@' || version
    SEMI JOIN asked ON asked.id = interaction_id
    GROUP BY ALL
),
failed AS (
    SELECT guard || '@' || version AS name, interaction_id, arg_max(outcome, recorded_at) AS outcome
    FROM guard_answers
    SEMI JOIN named ON named.name = guard || '@' || version
    SEMI JOIN asked ON asked.id = interaction_id
    ANTI JOIN scored ON scored.name = guard || '@' || version AND scored.interaction_id = guard_answers.interaction_id
    GROUP BY ALL
),
outcomes AS (
    SELECT name, string_agg(outcome || ' ' || n, ', ' ORDER BY n DESC, outcome) AS why, sum(n)::BIGINT AS abstained
    FROM (SELECT name, outcome, count(*) AS n FROM failed GROUP BY ALL)
    GROUP BY name
),
counts AS (SELECT name, count(*) AS scored, count_if(flagged) AS flagged FROM scored GROUP BY name)
SELECT
    regexp_replace(split_part(name, '@', 1), '^guard:', '') AS guard,
    coalesce(scored, 0) AS scored,
    coalesce(flagged, 0) AS flagged,
    coalesce(abstained, 0) AS abstained,
    coalesce(why, '') AS why,
    (SELECT count(*) FROM asked) - coalesce(scored, 0) - coalesce(abstained, 0) AS waiting,
    (SELECT count(*) FROM asked) - coalesce(scored, 0) AS uncovered
FROM named
LEFT JOIN counts USING (name)
LEFT JOIN outcomes USING (name)
ORDER BY name;
