-- Who once said that an exchange is for something else than training is heard, in whichever order the lines came.
CREATE OR REPLACE VIEW trainable AS
SELECT * FROM interactions
WHERE consent AND purpose = 'training'
    AND NOT EXISTS (
        SELECT 1 FROM signals WHERE signals.interaction_id = interactions.id AND kind IN ('no_consent', 'not_for_training')
    );

-- grain: one data set of pairs that was written to a folder outside; night_id is NULL for the pairs of all nights
CREATE TABLE pair_exports (id VARCHAR, path VARCHAR, night_id VARCHAR, exported_at TIMESTAMP);
