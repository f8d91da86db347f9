-- Purpose: each detector's measurements at its threshold.
-- Parameters: none.
-- Grain: one detector, its last measured version.
SELECT labeler, n, sensitivity, specificity, measured_at
FROM calibrations
WHERE kind = 'detector'
QUALIFY row_number() OVER (PARTITION BY labeler ORDER BY measured_at DESC, id DESC) = 1
ORDER BY labeler
