from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest

from evolution import ConfigError
from evolution.fitness.attempts import MINIMAL_CRITERIA, gather
from evolution.fitness.task import diversity_words
from populora_env.records import Phase, Request
from tests.evolution.test_manager import config, make


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"fitness": "novelty(archive=3)"},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in (
                {"diversity_schedule": "target(vendi=3)", "fitness_scale": "rank"},
                {"fitness": "map_elites"},
                {"fitness": "sharing", "diversity": "token_distributions+answers+strategies"},
            )
        ),
    ],
)
def test_resumed_equals_uninterrupted(tmp_path, settings):
    settings = config(evolve_every=1, diversity_bar="none", **settings)
    make(tmp_path / "whole", settings).run(3)
    make(tmp_path / "parts", settings).run(1)
    manager = make(settings=settings)
    manager.resume(tmp_path / "parts")
    manager.run(2)
    read = [(tmp_path / name / "history.jsonl").read_bytes() for name in ("whole", "parts")]
    assert read[0] == read[1]
    rows = [json.loads(line) for line in read[0].splitlines()]
    assert {"return", "diversity", "counted", "bonus", "vendi", "diversity_weight"} <= set(rows[0])
    assert ("coverage" in rows[0]) is (settings.fitness == "map_elites")


def test_token_distributions_are_kept_of_attempts_alone_and_only_while_playing():
    settings = config(diversity="token_distributions", diversity_bar="none")
    manager = make(settings=settings)
    (first, *_) = played = manager.play(manager.ask())
    recall, request = manager.population.recall, Request("agent_0", Phase.SOLVE, "2 + 2 =")
    for turn in first.turns:
        kept = {"hidden_states", *["distributions"] * (turn.phase is Phase.SOLVE)}
        assert recall(turn.reply_id).features.keys() == kept
    assert {turn.phase for turn in first.turns} == {Phase.SOLVE, Phase.COMPARE}
    scores = manager.tell(played).scores
    assert (scores.diversity > 0).all()
    assert 1 < scores.vendi <= 4
    (reply,) = manager.population.generate([request])
    assert reply.features.keys() == {"hidden_states"}


def test_wrong_attempts_earn_nothing_by_default():
    scores = make().run(1)[0].scores
    assert scores.accuracy.tolist() == [0] * 4
    assert scores.bonus.tolist() == scores.counted.tolist() == [0] * 4
    assert np.isnan(scores.diversity).all()
    assert "vendi    ?" in diversity_words(scores)


def test_a_trial_counts_on_the_scale_of_fitness():
    manager = make(settings=config(fitness_scale="z_score"))
    scores = manager.run(1)[0].scores
    assert scores.unit == pytest.approx(1 / scores.returns.std())
    before = manager.standing * (manager._standing.evidence + 1)
    manager._standing.correct([0, 1], np.array([[1.0, 1.0], [0.0, 0.0]]))
    after = manager.standing * (manager._standing.evidence + 1)
    moved = (after - before)[:2]
    assert moved[0] - moved[1] == pytest.approx(scores.unit)


def test_bars():
    transcripts = (manager := make()).play(manager.ask())
    rewards = np.array([[t.rewards[a] for a in t.agents] for t in transcripts])
    above = MINIMAL_CRITERIA.read("above_median").function(transcripts)
    assert np.array_equal(above, rewards >= np.median(rewards, axis=1)[:, None])
    assert MINIMAL_CRITERIA.read("rewarded").function(transcripts, least=rewards.max()).sum() >= 1
    assert not MINIMAL_CRITERIA.read("right").function(transcripts).any()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'populora-env\[qd\]'"):
        make(settings=config(fitness="map_elites"))


def test_an_empty_last_try_has_no_features_of_the_one_before():
    manager = make(settings=config(tries=2, evaluation="none", diversity_bar="none"))
    played = manager.play(manager.ask())
    turn = [t for t in played[0].turns if t.phase is Phase.SOLVE and t.agent == "agent_0"][-1]
    known = manager.population.recall(turn.reply_id)
    manager.population._recent[turn.reply_id] = replace(known, text="", reply_ids=())
    features = gather(played, manager.population, None).hidden_states
    assert np.isnan(features[0, 0]).all()
    assert np.isfinite(features[0, 1]).all()
