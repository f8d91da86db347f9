-- Purpose: the matching pairs of one night, weakest labels first, each with how its labelers voted.
-- Parameters: $night; $split, $side, $category, $labelers, $source, $principle (NULL: any); $text (NULL: any), part of prompt or answers;
--   $limit, $offset.
-- Grain: one pair; `total` counts all matches, `votes_for` and `votes_against` the labelers that preferred the chosen or rejected answer;
--   `action` and its companions hold a person's ruling on the exchange's pairs.
WITH found AS (
    SELECT
        pairs.*, pair_sets.split AS used_as, files.source, array_to_string(from_json(pairs.labelers, '["VARCHAR"]'), ' + ') AS labelled_by,
        from_json(pairs.principle_ids, '["VARCHAR"]') AS principles
    FROM pair_sets
    JOIN pairs ON pairs.id = pair_sets.pair_id
    LEFT JOIN interactions ON interactions.id = pairs.interaction_id
    LEFT JOIN (SELECT id, any_value(source) AS source FROM source_files GROUP BY id) AS files ON files.id = interactions.source_file
    WHERE pair_sets.night_id = $night
),
page AS (
    SELECT *, count(*) OVER () AS total
    FROM found
    WHERE ($split::VARCHAR IS NULL OR used_as = $split)
      AND ($side::VARCHAR IS NULL OR side = $side)
      AND ($category::VARCHAR IS NULL OR category = $category)
      AND ($labelers::VARCHAR IS NULL OR labelled_by = $labelers)
      AND ($source::VARCHAR IS NULL OR source = $source)
      AND ($principle::VARCHAR IS NULL OR list_contains(principles, $principle))
      AND ($text::VARCHAR IS NULL OR contains(lower(concat_ws(chr(31), messages::VARCHAR, chosen, rejected)), lower($text)))
    ORDER BY judge_margin NULLS LAST, id
    LIMIT $limit OFFSET $offset
),
ruled AS (
    SELECT events.*, answers.verdict
    FROM standing_pair_events AS events
    LEFT JOIN latest_verdicts AS answers ON events.action = 'review' AND answers.item_id = events.id AND answers.verdict <> 'skip'
    WHERE events.action <> 'restore'
),
said AS (
    SELECT page.id, votes.labeler, CASE votes.verdict WHEN 'first' THEN one.text ELSE two.text END AS preferred
    FROM page
    JOIN votes ON votes.interaction_id = page.interaction_id AND votes.verdict IN ('first', 'second')
    JOIN candidates AS one ON one.id = votes.first_id AND one.text IN (page.chosen, page.rejected)
    JOIN candidates AS two ON two.id = votes.second_id AND two.text IN (page.chosen, page.rejected)
    QUALIFY row_number() OVER (PARTITION BY page.id, votes.labeler ORDER BY votes.created_at DESC, votes.id DESC) = 1
)
SELECT
    page.id, page.interaction_id, ruled.action, ruled.pair_id AS ruled_pair, ruled.actor, ruled.reason, ruled.recorded_at AS ruled_at,
    ruled.verdict AS ruled_verdict, used_as AS split, side, category, messages, chosen, rejected, chosen_kind, rejected_kind, labelled_by, principles, judge_margin,
    source, total, count(said.labeler) FILTER (said.preferred = page.chosen) AS votes_for,
    count(said.labeler) FILTER (said.preferred = page.rejected) AS votes_against
FROM page
LEFT JOIN said ON said.id = page.id
LEFT JOIN ruled ON ruled.interaction_id = page.interaction_id
GROUP BY ALL
ORDER BY judge_margin NULLS LAST, page.id
