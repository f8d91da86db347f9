-- What the second, slower search for personal data has read; texts are masked in place, which changes no id.
-- grain: one version of the redactor on one exchange
CREATE TABLE deep_redactions (interaction_id VARCHAR, version VARCHAR, found JSON, scanned_at TIMESTAMP);
