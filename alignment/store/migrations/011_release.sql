-- What happens beside the registry: the canary's sequential test, and the hooks that tell others of a change.

-- grain: one look at a canary; a block is one exchange of the canary's and its share of the
-- champion's; diff, low and high are canary minus champion (-1..1), NULL without a block; `curve` a list of [exchanges, diff, low, high]
CREATE TABLE canary_checks (
    id VARCHAR, release_id VARCHAR, champion VARCHAR, share DOUBLE, decision VARCHAR, reason VARCHAR, canary_exchanges BIGINT,
    canary_failures BIGINT, champion_exchanges BIGINT, champion_failures BIGINT, blocks BIGINT, diff DOUBLE, low DOUBLE, high DOUBLE,
    alpha DOUBLE, margin DOUBLE, harm DOUBLE, curve JSON, started_at TIMESTAMP, recorded_at TIMESTAMP
);
-- grain: one attempt to tell one hook of one change (`change_id` is the registry's)
CREATE TABLE hook_runs (
    id VARCHAR, change_id VARCHAR, event VARCHAR, release_id VARCHAR, hook VARCHAR, ok BOOLEAN, tries INTEGER, detail VARCHAR,
    seconds DOUBLE, recorded_at TIMESTAMP
);
