-- What was asked of a paid endpoint and what it said, so that nothing is paid for twice.

-- grain: one question (id: content hash of model, messages and parameters), or one attempt whose answer was lost but may have been
-- billed (`response` NULL, the worst case as tokens). The messages are not kept. `interaction_id` is the exchange that was judged, or `canary`.
CREATE TABLE teacher_calls (
    id VARCHAR, interaction_id VARCHAR, response JSON, tokens_in BIGINT, tokens_out BIGINT, cost DOUBLE, seconds DOUBLE,
    created_at TIMESTAMP
);
