-- grain: as stage_runs, which is read here: the gate's stage was called release before, and rows stay as they were written.
CREATE VIEW night_stages AS
SELECT id, night_id, CASE stage WHEN 'release' THEN 'gate' ELSE stage END AS stage, seconds, counts, finished_at FROM stage_runs;
