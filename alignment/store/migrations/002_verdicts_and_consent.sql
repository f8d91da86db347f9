-- The last verdict of each reviewer on an item; a skip takes back only what the same person said before.
CREATE VIEW reviewer_verdicts AS
SELECT * FROM verdicts
QUALIFY row_number() OVER (PARTITION BY item_id, reviewer ORDER BY decided_at DESC, id DESC) = 1;

-- The verdict that stands: the newest that anybody gave and did not take back; a skip only where there is no other.
CREATE OR REPLACE VIEW latest_verdicts AS
SELECT * FROM reviewer_verdicts
QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY verdict = 'skip', decided_at DESC, id DESC) = 1;

-- Who once said no is not trained on, in whichever order the lines came.
CREATE OR REPLACE VIEW trainable AS
SELECT * FROM interactions
WHERE consent AND NOT EXISTS (SELECT 1 FROM signals WHERE signals.interaction_id = interactions.id AND kind = 'no_consent');
