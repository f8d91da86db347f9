-- Purpose: which runs logged steps.
-- Parameters: none.
-- Grain: one run.
SELECT DISTINCT run_id FROM training_metrics
