-- grain: one labelled request that is taught beside the logs. `chosen` and `rejected` are answers that came with it, or empty: then the
-- constitution and the model write them. Seeds of one `cluster` are drawn together. side: harm, helpful.
CREATE TABLE seeds (
    id VARCHAR, text VARCHAR, side VARCHAR, category VARCHAR, chosen VARCHAR, rejected VARCHAR, cluster VARCHAR, source VARCHAR,
    licence VARCHAR, added_at TIMESTAMP
);

-- grain: one time that a source of seeds was added or removed; the last one counts. action: add, remove.
CREATE TABLE seed_events (
    id VARCHAR, seq BIGINT, source VARCHAR, action VARCHAR, licence VARCHAR, seeds BIGINT, contaminated BIGINT, actor VARCHAR, recorded_at TIMESTAMP
);

-- grain: one seed that a night teaches. From then on it has a row in `interactions` too, under its own id, without user or answer; no
-- detector scores that row, so that no figure of traffic counts it.
CREATE TABLE seed_draws (id VARCHAR, night_id VARCHAR, seed_id VARCHAR, position BIGINT);

CREATE VIEW open_seeds AS
SELECT seeds.* FROM seeds
SEMI JOIN (SELECT source FROM seed_events GROUP BY source HAVING arg_max(action, seq) = 'add') AS kept ON kept.source = seeds.source;

CREATE OR REPLACE VIEW trainable AS
SELECT * FROM interactions
WHERE consent AND purpose = 'training'
    AND NOT EXISTS (
        SELECT 1 FROM signals WHERE signals.interaction_id = interactions.id AND kind IN ('no_consent', 'not_for_training')
    )
    AND NOT EXISTS (SELECT 1 FROM seeds ANTI JOIN open_seeds USING (id) WHERE seeds.id = interactions.id);
