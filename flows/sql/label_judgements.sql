-- Purpose: the judgement in force of each exchange: the one that a person decided on, else the labelers' latest.
-- Parameters: ids VARCHAR[] (exchanges), decided VARCHAR[] (judgements that people decided on).
-- Grain: one exchange. A user's edit (labeler `signals`) counts only once a person agreed to it.
SELECT * EXCLUDE (created_at)
FROM judgements
WHERE list_contains($ids, interaction_id) AND (labeler <> 'signals' OR list_contains($decided, id))
QUALIFY row_number() OVER (PARTITION BY interaction_id ORDER BY list_contains($decided, id) DESC, created_at DESC, id) = 1;
