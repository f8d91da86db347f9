-- What a source delivered is compared with what it delivered before.

-- grain: one source in one ingest run (kind 'ingest'), or the training set of one night (kind 'pairs')
-- Shares are of the exchanges stored, or of the pairs; hours since the same source's profile before this one; `keys` a list, NULL if unknown.
CREATE TABLE batch_profiles (
    id VARCHAR, kind VARCHAR, source VARCHAR, run VARCHAR, total BIGINT, stored BIGINT, quarantined BIGINT, hours DOUBLE,
    no_user_id DOUBLE, no_conversation_id DOUBLE, no_model DOUBLE, no_signals DOUBLE, flagged DOUBLE, smaller_side DOUBLE, keys JSON,
    recorded_at TIMESTAMP
);
