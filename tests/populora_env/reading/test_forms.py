import numpy as np
import pytest

from populora_env.episodes.rewards import RewardWeights
from populora_env.prompts import REPLY_TOKENS
from populora_env.reading.forms import FORMS
from populora_env.records import Phase, Preference, Problem, ReplyStatus


def test_the_table_has_every_phase_in_which_attempts_are_judged():
    assert set(Phase) - set(FORMS) == {Phase.PROPOSE, Phase.SOLVE, Phase.REVISE, Phase.DONE}
    assert set(FORMS) < set(REPLY_TOKENS)


@pytest.mark.parametrize("phase", FORMS)
def test_a_row_asks_for_what_it_reads(phase):
    form = FORMS[phase]
    texts = [f"attempt {number}" for number in range(form.attempts)]
    prompt = form.prompt(Problem.create("7 + 5 =", "12"), texts)
    assert prompt.startswith("Problem:\n7 + 5 =")
    assert [text in prompt for text in ("attempt 0", "attempt 1")] == [True, form.pairs]
    values = []
    for reply in form.examples:
        reading = form.read(reply)
        assert reading.status is ReplyStatus.OK
        values.append(reading.value)
        assert form.show(reading.value)
    assert len(set(values)) == len(values)
    if form.pairs:
        assert set(values) == set(Preference)
    else:
        assert [min(values), max(values)] == [0, 1]
        assert form.verdict == (len(values) == 2)


def test_an_arena_plays_every_form_for_as_many_rounds_as_it_takes():
    from populora_env import parallel_env

    env = parallel_env("procedural:chain_sum", 4, "+".join(FORMS), rewards=RewardWeights())
    observations, _ = env.reset(seed=0)
    phases = []
    while env.agents:
        phases.append(observations["agent_0"]["phase"])
        draw = np.random.default_rng(0)
        form = FORMS.get(Phase(phases[-1]))
        reply = "Answer: 1" if form is None else draw.choice(form.examples)
        observations, *_ = env.step(dict.fromkeys(env.agents, str(reply)))
    env.close()
    rounds = [phase for phase, form in FORMS.items() for _ in range(form.orders)]
    assert phases == ["solve", *rounds]
