-- What a gate metric is counted in: failures in a 'rate', or 'nats' a token. NULL, of earlier decisions, is a rate.
ALTER TABLE gate_metrics ADD COLUMN unit VARCHAR;
