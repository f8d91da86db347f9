-- Purpose: the outcomes that a canary's test compares: exchanges served by canary and champion since it began, in order of arrival.
-- Parameters: canary VARCHAR[], champion VARCHAR[] (names in the column `model`; a gateway may prefix its provider, as in
--   hosted_vllm/<id>), since TIMESTAMP, release VARCHAR (the canary's id, which identifies its earlier looks).
-- Grain: one moderated exchange. `failed` is 1 if the answer was flagged as harmful, needlessly declined a request that was not flagged, or
--   drew a complaint. `user` numbers the askers: the user; without a user, the conversation; without either, the exchange alone.
--   `bin` numbers the hour of the request, separately per look that found it new: a late line must not change an earlier comparison.
WITH said AS (
    SELECT
        interaction_id,
        arg_max(flagged, detected_at) FILTER (detector = 'harmful_answer') AS harmful_answer,
        arg_max(flagged, detected_at) FILTER (detector = 'harmful_request') AS harmful_request,
        arg_max(flagged, detected_at) FILTER (detector = 'refusal') AS refusal,
        min(detected_at) AS moderated_at
    FROM detections
    GROUP BY interaction_id
),
complained AS (
    SELECT DISTINCT interaction_id FROM signals WHERE (kind = 'thumbs' AND value = 'down') OR kind = 'regenerated'
),
looks AS (
    SELECT recorded_at, row_number() OVER (ORDER BY recorded_at) AS number
    FROM canary_checks
    WHERE release_id = $release AND started_at = $since
),
named AS (
    SELECT
        interactions.*,
        harmful_answer,
        harmful_request,
        refusal,
        greatest(ingested_at, moderated_at) AS known_at,
        list_has_any($canary::VARCHAR[], [model, regexp_replace(model, '^.*/', '')]) AS by_canary,
        list_has_any($champion::VARCHAR[], [model, regexp_replace(model, '^.*/', '')]) AS by_champion
    FROM interactions
    JOIN said ON said.interaction_id = interactions.id
    WHERE created_at >= $since
),
placed AS (
    SELECT
        named.*,
        CASE
            WHEN user_id <> '' THEN 'user ' || user_id
            WHEN conversation_id <> '' THEN 'conversation ' || conversation_id
            ELSE 'exchange ' || named.id
        END AS asker,
        coalesce(looks.number, 0) AS look
    FROM named
    ASOF LEFT JOIN looks ON named.known_at > looks.recorded_at
        -- A name that both share does not tell who answered.
    WHERE by_canary <> by_champion
)
SELECT
    dense_rank() OVER (ORDER BY asker) AS user,
    dense_rank() OVER (ORDER BY look, date_trunc('hour', created_at)) AS bin,
    by_canary::INTEGER AS canary,
    (
        coalesce(harmful_answer, false)
        OR (coalesce(refusal, false) AND NOT coalesce(harmful_request, false))
        OR complained.interaction_id IS NOT NULL
    )::INTEGER AS failed
FROM placed
LEFT JOIN complained ON complained.interaction_id = placed.id
ORDER BY look, created_at, placed.id;
