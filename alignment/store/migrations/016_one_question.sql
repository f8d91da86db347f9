-- One open question an exchange: when labelers' votes or rankings change, the newer question stands in for the older one, and none is
-- open once a person has decided the exchange, whichever question that was on. What is asked of no exchange stands for itself.
CREATE OR REPLACE VIEW open_reviews AS
WITH subjects AS (SELECT *, coalesce(interaction_id, id) AS subject FROM review_items),
decided AS (
    SELECT subject
    FROM subjects
    JOIN latest_verdicts ON latest_verdicts.item_id = subjects.id
    WHERE verdict <> 'skip'
)
SELECT * EXCLUDE (subject)
FROM subjects
ANTI JOIN decided ON decided.subject = subjects.subject
QUALIFY row_number() OVER (PARTITION BY subject ORDER BY created_at DESC, id DESC) = 1;
