-- before: the texts of the earlier turns, by user and assistant in turn; NULL for a seed of one turn from before there were others.
ALTER TABLE seeds ADD COLUMN before JSON;

CREATE OR REPLACE VIEW open_seeds AS
SELECT seeds.* FROM seeds
SEMI JOIN (SELECT source FROM seed_events GROUP BY source HAVING arg_max(action, seq) = 'add') AS kept ON kept.source = seeds.source;
