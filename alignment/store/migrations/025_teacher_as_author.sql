-- The teacher as author: what its calls were made for, and what came of each exchange that it was to answer better.

-- purpose: author, or empty for all else.
ALTER TABLE teacher_calls ADD COLUMN purpose VARCHAR;

-- grain: one time that a night wanted the teacher's revision of one exchange; the last one of a night counts. outcome: revised, or why there
-- is none (see alignment.candidates.author). The texts stand in `candidates`, whose row `candidate_id` is; NULL where nothing was written.
CREATE TABLE author_outcomes (
    id VARCHAR, night_id VARCHAR, interaction_id VARCHAR, author VARCHAR, outcome VARCHAR, candidate_id VARCHAR, recorded_at TIMESTAMP
);
