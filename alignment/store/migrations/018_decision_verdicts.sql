-- The verdicts that a decision rests on, so that its answers are found after scorers, rules or lengths have changed: the beginnings of
-- their ids. NULL, of earlier decisions, is unknown.
ALTER TABLE gate_decisions ADD COLUMN verdicts JSON;
