-- Who has which review item open, verdicts in an order that no clock changes, and what people said of pairs that are there already.
-- Events are appended; of an item or a pair the one with the largest `seq` stands, whatever the clock said.

-- `showing` is the one act of showing an item that the verdict answers; `left_answer` (a, b) is the answer that stood on the left of it.
ALTER TABLE verdicts ADD COLUMN seq BIGINT;
ALTER TABLE verdicts ADD COLUMN showing VARCHAR;
ALTER TABLE verdicts ADD COLUMN left_answer VARCHAR;

-- grain: one event (claim, renew, release) of one showing of one item. `seen` is the last verdict that the reviewer could know of, `digest`
-- the content that was shown.
CREATE TABLE review_holds (
    id VARCHAR, showing VARCHAR, item_id VARCHAR, reviewer VARCHAR, event VARCHAR, seq BIGINT, left_answer VARCHAR, seen BIGINT,
    digest VARCHAR, recorded_at TIMESTAMP
);
CREATE VIEW review_holders AS
SELECT * FROM review_holds QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY seq DESC, id DESC) = 1;

-- grain: one thing that one person said of one pair (exclude, flip, review, restore). The last one on an exchange stands for all its pairs.
CREATE TABLE pair_events (
    id VARCHAR, pair_id VARCHAR, interaction_id VARCHAR, action VARCHAR, actor VARCHAR, reason VARCHAR, seq BIGINT, recorded_at TIMESTAMP
);
CREATE VIEW standing_pair_events AS
SELECT * FROM pair_events QUALIFY row_number() OVER (PARTITION BY interaction_id ORDER BY seq DESC, id DESC) = 1;

CREATE OR REPLACE VIEW reviewer_verdicts AS
SELECT * FROM verdicts
QUALIFY row_number() OVER (PARTITION BY item_id, reviewer ORDER BY coalesce(seq, 0) DESC, decided_at DESC, id DESC) = 1;

-- The verdict that stands is the one that most people gave; of equally many the newest, but then it is `disputed` and decides nothing.
CREATE OR REPLACE VIEW latest_verdicts AS
WITH spoken AS (
    SELECT *, verdict || chr(31) || coalesce(edited_answer, '') AS word FROM reviewer_verdicts
),
counted AS (
    SELECT *, CASE WHEN verdict = 'skip' THEN 0 ELSE count(*) OVER (PARTITION BY item_id, word) END AS voices FROM spoken
),
led AS (
    SELECT *, max(voices) OVER (PARTITION BY item_id) AS most FROM counted
)
SELECT
    * EXCLUDE (word, voices, most),
    coalesce(min(word) FILTER (voices = most AND most > 0) OVER (PARTITION BY item_id)
        <> max(word) FILTER (voices = most AND most > 0) OVER (PARTITION BY item_id), false) AS disputed
FROM led
QUALIFY row_number() OVER (
    PARTITION BY item_id ORDER BY verdict = 'skip', voices DESC, coalesce(seq, 0) DESC, decided_at DESC, id DESC
) = 1;

-- As before one open question an exchange. A question about a pair stands for itself and as long as nothing newer was said of the pair;
-- of an exchange whose pairs a person has ruled on nothing else is asked.
CREATE OR REPLACE VIEW open_reviews AS
WITH subjects AS (
    SELECT *, CASE WHEN kind = 'pair_review' THEN id ELSE coalesce(interaction_id, id) END AS subject FROM review_items
),
decided AS (
    SELECT subject
    FROM subjects
    JOIN latest_verdicts ON latest_verdicts.item_id = subjects.id
    WHERE verdict <> 'skip'
    UNION ALL
    SELECT interaction_id FROM standing_pair_events WHERE action <> 'restore'
)
SELECT * EXCLUDE (subject)
FROM subjects
ANTI JOIN decided ON decided.subject = subjects.subject
WHERE kind IS DISTINCT FROM 'pair_review' OR id IN (SELECT id FROM standing_pair_events)
QUALIFY row_number() OVER (PARTITION BY subject ORDER BY created_at DESC, id DESC) = 1;
