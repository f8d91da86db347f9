-- Settings below the gate's floor that a decision was made with: {"reason": ..., "settings": [plain words]}. NULL where there were none.
ALTER TABLE gate_decisions ADD COLUMN weakened JSON;
