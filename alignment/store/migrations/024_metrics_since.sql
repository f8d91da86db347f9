-- What a metric of the gate was compared with: NULL or '' the champion, 'base' the base model, 'approved' the last release that a person approved.
ALTER TABLE gate_metrics ADD COLUMN since VARCHAR;
