-- Purpose: exchanges that a guard has still to be asked about, newest first, except seeds, which are labelled.
-- Parameters: guard VARCHAR, version VARCHAR, tries BIGINT (days on which the guard was not reached, after which it is asked no more).
-- Grain: one exchange without a score of this version. An abstention for any other reason than that nobody answered is final.
SELECT id
FROM interactions
ANTI JOIN (SELECT interaction_id FROM detections WHERE detector = $guard AND version = $version) AS scored
    ON scored.interaction_id = interactions.id
ANTI JOIN (
    SELECT interaction_id FROM guard_answers
    WHERE guard = $guard AND version = $version AND outcome <> 'scored'
    GROUP BY interaction_id
    HAVING bool_or(outcome <> 'unavailable') OR count(DISTINCT recorded_at::DATE) >= $tries
) AS abstained ON abstained.interaction_id = interactions.id
ANTI JOIN seeds USING (id)
ORDER BY created_at DESC, id;
