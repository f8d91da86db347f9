-- A file is read in batches, each in one transaction; a grown file goes on where its last batch ended.
-- grain of source_files from here on: one batch of one file (`id` is the file's); offsets count its unpacked bytes
ALTER TABLE source_files ADD COLUMN source VARCHAR DEFAULT 'logs';
ALTER TABLE source_files ADD COLUMN start_offset BIGINT DEFAULT 0;
ALTER TABLE source_files ADD COLUMN end_offset BIGINT;
ALTER TABLE source_files ADD COLUMN first_line BIGINT DEFAULT 1;
ALTER TABLE source_files ADD COLUMN last_line BIGINT;
ALTER TABLE source_files ADD COLUMN mtime_ns BIGINT;
-- sha256 of the first head_bytes bytes; sha256 itself is that of everything up to end_offset
ALTER TABLE source_files ADD COLUMN head_bytes BIGINT;
ALTER TABLE source_files ADD COLUMN head VARCHAR;
-- whether this batch reached the end of the file as it then was
ALTER TABLE source_files ADD COLUMN finished BOOLEAN DEFAULT true;
-- valid lines that hold no exchange, such as spans of other calls
ALTER TABLE source_files ADD COLUMN rows_skipped BIGINT DEFAULT 0;

ALTER TABLE quarantine ADD COLUMN record_number BIGINT DEFAULT 1;
-- grain: one quarantined line that was read again after a fix, and what became of it
CREATE TABLE replays (id VARCHAR, quarantine_id VARCHAR, outcome VARCHAR, replayed_at TIMESTAMP);
CREATE VIEW open_quarantine AS
SELECT * FROM quarantine WHERE NOT EXISTS (SELECT 1 FROM replays WHERE replays.quarantine_id = quarantine.id);

-- What an exchange may be used for: training, evaluation, monitoring or other.
ALTER TABLE interactions ADD COLUMN purpose VARCHAR DEFAULT 'training';
CREATE OR REPLACE VIEW trainable AS
SELECT * FROM interactions
WHERE consent AND purpose = 'training'
    AND NOT EXISTS (SELECT 1 FROM signals WHERE signals.interaction_id = interactions.id AND kind = 'no_consent');
