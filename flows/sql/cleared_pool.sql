-- Purpose: exchanges that could be chosen tonight (see selection_pool.sql), were they scored in full: the cascade's first stage cleared them.
-- Parameters: max_chars BIGINT.
-- Grain: one trainable, cleared exchange that no night has built pairs from.
SELECT trainable.id
FROM trainable
SEMI JOIN cleared ON cleared.interaction_id = trainable.id
ANTI JOIN (SELECT interaction_id FROM selections SEMI JOIN pair_sets ON pair_sets.night_id = selections.night_id) AS used
    ON used.interaction_id = trainable.id
WHERE length(trainable.messages::VARCHAR) <= $max_chars AND length(trainable.messages::VARCHAR) + length(response) <= 6 * $max_chars
ORDER BY trainable.id;
