-- Purpose: the measured reliability of one night's labelers, for its release's card.
-- Parameters: $night_id.
-- Grain: one labeler whose version was measured; the last of several measurements counts.
SELECT states.labeler, calibrations.n, calibrations.sensitivity, calibrations.specificity
FROM labeler_states AS states
JOIN calibrations ON calibrations.labeler = states.labeler AND calibrations.labeler_version = states.labeler_version
WHERE states.night_id = $night_id
QUALIFY row_number() OVER (PARTITION BY states.labeler ORDER BY states.recorded_at DESC, calibrations.measured_at DESC, calibrations.id DESC) = 1
