-- Purpose: the last alarms, with the exchanges that drove them.
-- Parameters: $limit, how many signals.
-- Grain: one signal named by the alarm of one day; `exchanges` lists ids, the strongest first.
SELECT
    drift_alarms.*,
    (
        SELECT list(interaction_id ORDER BY position)
        FROM drift_examples
        SEMI JOIN interactions ON interactions.id = interaction_id
        WHERE alarm_id = drift_alarms.id
    ) AS exchanges
FROM drift_alarms
ORDER BY day DESC, value DESC, signal
LIMIT $limit
