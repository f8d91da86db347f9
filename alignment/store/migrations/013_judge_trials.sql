-- What a model behind an endpoint made of the labelled answers when it was tried as the gate's judge.

-- grain: one trial. `judge` is the endpoint, the model's name there and the questions; `edition` names the weights as far as their odds tell
-- them apart; `odds` holds, by labelled answer, the probability of a failure in both orders of the letters. NULL odds end the trial before.
CREATE TABLE judge_trials (
    id VARCHAR, judge VARCHAR, edition VARCHAR, odds JSON, reason VARCHAR, tried_at TIMESTAMP
);
