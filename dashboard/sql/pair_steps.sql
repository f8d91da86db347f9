-- Purpose: how the chosen answers of some pairs were written: the writer, the critique before it, and the checks.
-- Parameters: pairs VARCHAR[] (ids).
-- Grain: one pair whose chosen answer is a revision; of several identical revisions, the last one made.
SELECT pairs.id AS pair_id, candidates.id AS candidate_id, candidates.kind, candidates.model, candidates.detail::VARCHAR AS detail
FROM pairs
JOIN candidates
    ON candidates.interaction_id = pairs.interaction_id AND candidates.kind = pairs.chosen_kind AND candidates.text = pairs.chosen
WHERE list_contains($pairs, pairs.id) AND (candidates.detail ->> '$.critique_1') IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY pairs.id ORDER BY candidates.created_at DESC, candidates.id) = 1
