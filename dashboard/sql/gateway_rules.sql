-- Purpose: how often each rule of the policy fired, and how often its check failed. A rule that only monitors does nothing about it.
-- Parameters: none; reads the table of gateway_lines.
-- Grain: one rule.
WITH found AS (SELECT unnest(findings) AS finding FROM lines)
SELECT
    finding.rule, finding.check, finding.action, finding.mode,
    count(*) FILTER (finding.error IS NULL) AS fired,
    count(*) FILTER (finding.error IS NOT NULL) AS failed,
    count(*) FILTER (finding.error IS NOT NULL AND finding.mode = 'enforce' AND finding.enforced) AS failed_closed,
    count(*) FILTER (finding.error IS NOT NULL AND finding.mode = 'enforce' AND NOT finding.enforced) AS failed_open
FROM found
GROUP BY ALL
ORDER BY failed DESC, fired DESC, finding.rule;
