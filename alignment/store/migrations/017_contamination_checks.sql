-- An exchange that was compared with what the evaluation suites ask is not compared again until these or the embedder change.

-- grain: what one exchange's user says, compared with one `version` of suites, embedder and thresholds (id: content hash of both)
CREATE TABLE contamination_checks (id VARCHAR, interaction_id VARCHAR, version VARCHAR, contaminated BOOLEAN, checked_at TIMESTAMP);
