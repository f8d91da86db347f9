-- Purpose: how long exchanges took, the model's time included.
-- Parameters: none; reads the table of gateway_lines.
-- Grain: one row.
SELECT
    count(*) AS exchanges,
    quantile_cont(milliseconds, 0.5) FILTER (isfinite(milliseconds)) / 1000 AS half,
    quantile_cont(milliseconds, 0.99) FILTER (isfinite(milliseconds)) / 1000 AS slowest
FROM lines;
