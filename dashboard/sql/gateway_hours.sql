-- Purpose: what the gateway did with exchanges.
-- Parameters: none; reads the table of gateway_lines.
-- Grain: one hour and action.
SELECT hour, action, count(*) AS exchanges FROM lines WHERE hour IS NOT NULL GROUP BY ALL ORDER BY hour, action;
