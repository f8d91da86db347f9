-- grain: one erasure of one person's data; the fact is kept, the person only as two keyed hashes (see alignment.ids.subject_key):
-- of the id that was given and of the masked form of it, which are equal where ingestion masks nothing
CREATE TABLE erasures (
    id VARCHAR, subject_key VARCHAR, masked_key VARCHAR, reason VARCHAR, actor VARCHAR, counts JSON, erased_at TIMESTAMP
);

-- Who was erased stays out: a line whose keyed hash is here is not read again.
CREATE VIEW erased_keys AS
SELECT subject_key FROM erasures UNION SELECT masked_key FROM erasures;

-- Whose the line was, where it could be read so far: erasure finds it by this.
ALTER TABLE quarantine ADD COLUMN user_id VARCHAR;
