-- What guards answered. Scores stand in `detections`, under the detector `guard:NAME`; an abstention has none.

-- grain: one time that a guard was asked about one exchange. outcome: scored, or the kind of abstention (see alignment.moderation.guards).
-- label: the guard's own label. hazard: its code among MLCommons' hazards; empty if it is none of them.
-- request_score, request_category: what it says of the request, where that by itself is flagged; the detection may be about the answer.
CREATE TABLE guard_answers (
    id VARCHAR, interaction_id VARCHAR, guard VARCHAR, version VARCHAR, outcome VARCHAR, label VARCHAR, hazard VARCHAR,
    request_score DOUBLE, request_category VARCHAR, recorded_at TIMESTAMP
);
