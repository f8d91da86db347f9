-- Purpose: what one run logged, thinned to what a chart can show.
-- Parameters: $run; $points, the most values of one metric.
-- Grain: one metric and span of steps: the mean over the span, and the span's last value.
WITH logged AS (SELECT step, name, value FROM training_metrics WHERE run_id = $run AND isfinite(value)),
span AS (SELECT greatest(1, ceil(max(step) / $points))::INTEGER AS steps FROM logged)
SELECT name, max(step) AS step, avg(value) AS value, arg_max(value, step) AS last
FROM logged, span
GROUP BY name, (step - 1) // span.steps
ORDER BY name, step
