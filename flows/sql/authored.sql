-- Purpose: the teacher's candidates as author, from any night, with their outcomes.
-- Parameters: kinds VARCHAR[] (kinds of candidates).
-- Grain: one candidate; `outcome` says whether it may be taught, or why not.
SELECT id, kind, detail ->> '$.outcome' AS outcome FROM candidates WHERE list_contains($kinds, kind);
