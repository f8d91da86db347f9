-- Purpose: one value that changes whenever there is something new to learn from.
-- Parameters: none.
-- Grain: one row. The sums do not depend on row order; ids are uniform hex digits.
SELECT
    (SELECT count(*) || '-' || coalesce(sum(('0x' || substr(id, 1, 15))::BIGINT::HUGEINT), 0) FROM trainable ANTI JOIN seeds USING (id)) AS traffic,
    (SELECT count(*) || '-' || coalesce(sum(('0x' || substr(id, 1, 15))::BIGINT::HUGEINT), 0) FROM open_seeds) AS seeds,
    (SELECT count(*) || '-' || coalesce(sum(('0x' || substr(id, 1, 15))::BIGINT::HUGEINT), 0) FROM verdicts WHERE verdict <> 'skip' OR note = 'undo')
        || (SELECT CASE WHEN count(*) = 0 THEN '' ELSE '-' || count(*) || '-' || sum(('0x' || substr(id, 1, 15))::BIGINT::HUGEINT) END FROM pair_events)
    AS verdicts,
    (SELECT count(*) || '-' || coalesce(sum(('0x' || substr(id, 1, 15))::BIGINT::HUGEINT), 0) FROM signals WHERE kind NOT IN ('no_consent', 'not_for_training')) AS signals,
        -- Without this, a store after an erasure could look like that of an earlier night, which is finished.
    (SELECT count(*) FROM release_events WHERE event = 'trained_on_erased') AS erased;
