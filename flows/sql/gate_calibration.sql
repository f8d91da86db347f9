-- Purpose: people's checks of the gate's verdicts on answers, for the scorers in use.
-- Parameters: $version of the scorers.
-- Grain: one suite. `found` and `invented` were scored failures, `missed` and `cleared` were not;
--   skips and verdicts on the request do not count.
SELECT
    (items.detail ->> '$.suite') AS suite,
    count_if((items.detail ->> '$.outcome') = '1' AND verdict = 'agree') AS found,
    count_if((items.detail ->> '$.outcome') = '0' AND verdict = 'flip') AS missed,
    count_if((items.detail ->> '$.outcome') = '0' AND verdict = 'agree') AS cleared,
    count_if((items.detail ->> '$.outcome') = '1' AND verdict = 'flip') AS invented
FROM review_items AS items
JOIN latest_verdicts AS latest ON latest.item_id = items.id
WHERE NOT latest.disputed AND items.kind = 'gate_audit' AND (items.detail ->> '$.scorer_version') = $version AND (items.detail ->> '$.suite') IS NOT NULL
GROUP BY ALL
ORDER BY suite
