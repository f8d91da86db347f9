-- Purpose: one run's logged metrics, thinned to what a chart can show.
-- Parameters: $run; $points, the maximum of values per metric.
-- Grain: one metric and span of steps: the span's mean and its last value.
WITH logged AS (SELECT step, name, value FROM training_metrics WHERE run_id = $run AND isfinite(value)),
span AS (SELECT greatest(1, ceil(max(step) / $points))::INTEGER AS steps FROM logged)
SELECT name, max(step) AS step, avg(value) AS value, arg_max(value, step) AS last
FROM logged, span
GROUP BY name, (step - 1) // span.steps
ORDER BY name, step
