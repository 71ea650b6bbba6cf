"""What individuals have of their own: who has it, where it is used, and that it comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolution import ConfigError, Learner
from evolution.individuals.hyperparameters import founding_rates
from tests.evolution.test_manager import config, make


@pytest.mark.parametrize("size", [1, 2, 5])
def test_founders_rates_are_spread_log_evenly_in_an_order_of_the_seeds(size):
    settings = config(learning_rates="1e-4..1e-2")
    rates = founding_rates(settings, size)
    wanted = np.logspace(-4, -2, size) if size > 1 else [1e-3]
    assert sorted(rates) == pytest.approx(wanted)
    orders = {tuple(founding_rates(replace(settings, seed=seed), size)) for seed in range(20)}
    assert len(orders) > 1 or size == 1
    assert founding_rates(settings, size) == rates
    assert founding_rates(config(), size) == [3e-4] * size


@pytest.mark.parametrize(
    "text", ["fast", "1e-3", "1e-3..", "1e-3..1e-4", "0..1e-3", "1e-3..2", "1..2..3", "nan..1"]
)
def test_no_range_is_refused_in_a_line(text):
    with pytest.raises(ConfigError, match=r"learning_rates: got '.*', expected a range") as caught:
        config(learning_rates=text)
    assert "\n" not in str(caught.value)


def test_founders_learn_at_their_rates_and_pass_them_on():
    manager = make(settings=config(learning_rates="1e-4..1e-2", evolve_every=1, elites=1))
    manager.ask()
    own = [i.hyperparameters["learning_rate"] for i in manager.lineage]
    assert manager._learner.learning_rates.tolist() == pytest.approx(own)
    assert len(set(own)) == 4
    manager.run(2)
    for slot, individual in manager._lineage.living.items():
        rate = individual.hyperparameters["learning_rate"]
        assert rate in own
        assert manager._learner.learning_rates[slot] == pytest.approx(rate)


def own_values(manager, slot, **values):
    """Give an individual values of its own, as an outer search does."""
    known = manager._lineage.living[slot].hyperparameters
    manager._lineage.amend(slot, hyperparameters={**known, **values})
    manager.hyperparameters.write([manager._lineage.living[slot]])


def used(manager):
    kl = [] if manager._learner is None else manager._learner.kl_weights.tolist()
    return kl, manager.population.temperatures.tolist()


def test_values_are_used_and_leave_the_slot_with_their_individual():
    manager = make(settings=config(kl=0.1, evolve_every=1, elites=1, offspring=3))
    manager.ask()
    for slot in range(4):
        own_values(manager, slot, kl=0.2 + slot, temperature=0.5 + slot)
    assert used(manager) == (pytest.approx([0.2, 1.2, 2.2, 3.2]), [0.5, 1.5, 2.5, 3.5])
    (result,) = manager.run(1)
    assert manager._learner.temperatures.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert np.isfinite(result.learning.kl).all()
    manager.ask()  # three children
    living = manager._lineage.members
    assert sum(individual.generation == 1 for individual in living) == 3
    assert used(manager)[1] == [i.hyperparameters["temperature"] for i in living]
    assert used(manager)[0] == pytest.approx([i.hyperparameters["kl"] for i in living])
    # Whoever has none of its own has the run's.
    newcomer = replace(living[0], hyperparameters={"learning_rate": 1e-3})
    manager.hyperparameters.write([newcomer])
    assert used(manager)[1][0] == 0.8
    assert used(manager)[0][0] == pytest.approx(0.1)


@pytest.mark.parametrize("learner", [Learner.POLICY_GRADIENT, Learner.NONE])
def test_a_resumed_run_goes_on_with_them(tmp_path, learner):
    settings = config(learner=learner, kl=0.1, evolve_every=2)

    def begun(folder):
        manager = make(folder, settings)
        manager.ask()
        own_values(manager, 1, kl=0.4, temperature=1.3)
        manager.run(1)
        return manager

    whole, half = begun(tmp_path / "whole"), begun(tmp_path / "half")
    half.close()
    again = make(settings=settings)
    again.resume(tmp_path / "half")
    assert used(again) == used(whole)
    assert used(again)[1][1] == 1.3
    first, second = whole.run(2), again.run(2)
    assert [r.scores.returns.tolist() for r in first] == [r.scores.returns.tolist() for r in second]
    assert whole.population.lora.hashes(range(4)) == again.population.lora.hashes(range(4))


def test_a_change_of_the_runs_moves_own_values_in_proportion(tmp_path):
    manager = make(tmp_path, config(kl=0.1))
    manager.ask()
    own_values(manager, 2, kl=0.4, temperature=1.6)
    manager.run(1)
    again = make(settings=config(kl=0.2, temperature=0.4))
    again.resume(tmp_path)
    kl, temperatures = used(again)
    assert kl == pytest.approx([0.2, 0.2, 0.8, 0.2])
    assert temperatures == [0.4, 0.4, pytest.approx(0.8), 0.4]  # of 0.8, the default
    assert again._lineage.living[2].hyperparameters["kl"] == pytest.approx(0.8)
