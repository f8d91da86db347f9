-- Purpose: what the teacher wrote as author in any night, and what came of it.
-- Parameters: kinds VARCHAR[] (kinds of candidates).
-- Grain: one candidate; `outcome` says whether it may be taught, or why not.
SELECT id, kind, detail ->> '$.outcome' AS outcome FROM candidates WHERE list_contains($kinds, kind);
