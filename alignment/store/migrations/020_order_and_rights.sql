-- Order by numbers and not by the clock, and what a right to serve hangs on.

ALTER TABLE gate_decisions ADD COLUMN seq BIGINT;
ALTER TABLE gate_verdicts ADD COLUMN seq BIGINT;
ALTER TABLE release_events ADD COLUMN seq BIGINT;
ALTER TABLE canary_checks ADD COLUMN seq BIGINT;
ALTER TABLE hook_runs ADD COLUMN seq BIGINT;
-- The challenger as it answered, in full (NULL, of earlier decisions, is unknown), and whether a person had to approve when it was decided.
ALTER TABLE gate_decisions ADD COLUMN model_id VARCHAR;
ALTER TABLE gate_decisions ADD COLUMN approval BOOLEAN;
-- What a person's word is bound to: the decision's number (0: the gate had not decided) and the release's weights. NULL, of earlier
-- words, is unknown. Of an override of no decision, decision_id and night_id are NULL.
ALTER TABLE gate_verdicts ADD COLUMN decision_seq BIGINT;
ALTER TABLE gate_verdicts ADD COLUMN weights VARCHAR;
-- The largest share of the traffic that an override lets a canary have; NULL where it is for production.
ALTER TABLE gate_verdicts ADD COLUMN share DOUBLE;

-- Earlier rows: by time, since nothing else compares rows of two tables, and of one time in the order they were written.
CREATE TEMP TABLE numbered AS
SELECT kind, id, row_number() OVER (ORDER BY moment NULLS FIRST, kind, place) AS seq
FROM (
    SELECT 1 AS kind, id, decided_at AS moment, rowid AS place FROM gate_decisions
    UNION ALL SELECT 2, id, recorded_at, rowid FROM release_events
    UNION ALL SELECT 3, id, decided_at, rowid FROM gate_verdicts
    UNION ALL SELECT 4, id, recorded_at, rowid FROM canary_checks
    UNION ALL SELECT 5, id, recorded_at, rowid FROM hook_runs
);
UPDATE gate_decisions SET seq = numbered.seq FROM numbered WHERE kind = 1 AND numbered.id = gate_decisions.id;
UPDATE release_events SET seq = numbered.seq FROM numbered WHERE kind = 2 AND numbered.id = release_events.id;
UPDATE gate_verdicts SET seq = numbered.seq FROM numbered WHERE kind = 3 AND numbered.id = gate_verdicts.id;
UPDATE canary_checks SET seq = numbered.seq FROM numbered WHERE kind = 4 AND numbered.id = canary_checks.id;
UPDATE hook_runs SET seq = numbered.seq FROM numbered WHERE kind = 5 AND numbered.id = hook_runs.id;
DROP TABLE numbered;
UPDATE gate_verdicts SET decision_seq = decisions.seq FROM gate_decisions AS decisions WHERE decisions.id = gate_verdicts.decision_id;

-- What people promoted by name and with a reason although the gate had never decided on it: the override that it was.
INSERT INTO gate_verdicts BY NAME
SELECT
    sha256(concat_ws(chr(31), 'override', id)) AS id, release_id, 'overridden' AS verdict, actor, reason, recorded_at AS decided_at, seq,
    0 AS decision_seq
FROM release_events AS events
WHERE event = 'promoted' AND trim(coalesce(reason, '')) <> ''
    AND trim(coalesce(actor, '')) NOT IN ('', 'unknown', 'nightly gate', 'canary monitor')
    AND NOT EXISTS (SELECT 1 FROM gate_decisions WHERE gate_decisions.challenger = events.release_id);

CREATE OR REPLACE VIEW asked_approvals AS
WITH last AS (
    SELECT * FROM gate_decisions QUALIFY row_number() OVER (PARTITION BY night_id ORDER BY seq DESC) = 1
)
SELECT id AS decision_id, challenger AS release_id, night_id, decided_at FROM last
WHERE decision = 'promote' AND EXISTS (
    SELECT 1 FROM release_events AS events
    WHERE events.event = 'waits_for_approval' AND events.night_id = last.night_id AND events.release_id = last.challenger
        AND events.seq > last.seq
);
