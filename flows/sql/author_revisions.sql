-- Purpose: one author's revisions that may be taught.
-- Parameters: author VARCHAR (its version), ids VARCHAR[] (exchanges), kind VARCHAR.
-- Grain: one exchange: the last revision.
SELECT candidates.id, candidates.interaction_id, kind, text, model, principle_id
FROM candidates
SEMI JOIN (SELECT candidate_id FROM author_outcomes WHERE author = $author) AS made ON made.candidate_id = candidates.id
WHERE kind = $kind AND list_contains($ids, candidates.interaction_id)
QUALIFY row_number() OVER (PARTITION BY candidates.interaction_id ORDER BY created_at DESC, candidates.id) = 1;
