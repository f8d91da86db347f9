-- Purpose: each labeler in its state of the last night that labelled, with the measurements of its version.
-- Parameters: none.
-- Grain: one labeler; measures are NULL where its version was not measured. `votes` counts the exchanges of that night's selection that this
-- version voted on, that night or, where the vote was reused, before; `decided` counts those on which its last vote takes a side.
WITH last AS (
    SELECT *
    FROM labeler_states
    WHERE night_id = (SELECT arg_max(night_id, recorded_at) FROM labeler_states)
    QUALIFY row_number() OVER (PARTITION BY labeler ORDER BY recorded_at DESC, id DESC) = 1
),
measured AS (
    SELECT *
    FROM calibrations
    QUALIFY row_number() OVER (PARTITION BY labeler, labeler_version ORDER BY measured_at DESC, id DESC) = 1
),
spoken AS (
    SELECT votes.labeler, votes.verdict
    FROM votes
    JOIN last USING (labeler, labeler_version)
    WHERE votes.interaction_id IN (SELECT interaction_id FROM selections JOIN last USING (night_id)) OR votes.night_id = last.night_id
    QUALIFY row_number() OVER (PARTITION BY votes.labeler, votes.interaction_id ORDER BY votes.created_at DESC, votes.id DESC) = 1
),
voted AS (
    SELECT labeler, count(*) AS votes, count(*) FILTER (verdict IN ('first', 'second')) AS decided
    FROM spoken
    GROUP BY labeler
)
SELECT
    last.labeler, last.active, last.reason, last.recorded_at, measured.n, measured.sensitivity, measured.specificity,
    measured.order_consistency, measured.attack_success, measured.attacks, measured.wrong_harm + measured.wrong_helpful AS wrong,
    measured.ties, measured.unscored, coalesce(voted.votes, 0) AS votes, coalesce(voted.decided, 0) AS decided
FROM last
LEFT JOIN measured ON measured.labeler = last.labeler AND measured.labeler_version = last.labeler_version
LEFT JOIN voted ON voted.labeler = last.labeler
ORDER BY last.active DESC, votes DESC, last.labeler
