-- Which wording of a principle decided an exchange, so that an edited principle is applied again to just what it had decided.
-- grain: one version of one principle on one exchange, and the pair that it came to ('' for none)
CREATE TABLE principle_decisions (
    id VARCHAR, interaction_id VARCHAR, principle_id VARCHAR, principle_version VARCHAR, pair_id VARCHAR, night_id VARCHAR,
    decided_at TIMESTAMP
);

-- Pairs that were built before: the last judgement before the pair names the version, as the first part of its labeler's.
INSERT INTO principle_decisions
SELECT
    sha256(concat_ws(chr(31), pairs.id, any_value(pairs.principle_ids ->> '$[0]'))), any_value(pairs.interaction_id),
    any_value(pairs.principle_ids ->> '$[0]'), split_part(arg_max(labeler_version, judgements.created_at), '+', 1), pairs.id, '', max(built_at)
FROM pairs
JOIN judgements ON judgements.interaction_id = pairs.interaction_id
WHERE labeler = 'constitution' AND judgements.principle_ids::VARCHAR = pairs.principle_ids::VARCHAR AND judgements.created_at <= built_at
GROUP BY pairs.id;

-- Whether a labeler that learns from the model's own releases still judges as it did. Shares are in 0..1, NULL where nothing could be measured.
-- grain: one labeler at one release, each time it was measured
CREATE TABLE labeler_health (
    id VARCHAR, release_id VARCHAR, model_id VARCHAR, labeler VARCHAR, labeler_version VARCHAR, anchor_agreement DOUBLE, anchor_n BIGINT,
    human_agreement DOUBLE, human_n BIGINT, distinct_1 DOUBLE, distinct_2 DOUBLE, distinct_3 DOUBLE, mean_length DOUBLE, answers BIGINT,
    mean_margin DOUBLE, votes BIGINT, halted BOOLEAN, reasons JSON, measured_at TIMESTAMP
);
