from __future__ import annotations

import json

import numpy as np
import pytest

from agents.population import LoraPopulation
from evolution import CheckpointError, ConfigError, EvolutionConfig, EvolutionManager, Learner
from evolution.lowrank.genomes import content_hash
from populora_env import REWARD_PRESETS, Preference, Problem, Verdict, load_problems
from populora_env.records import AnswerKind
from tests.conftest import make_tiny_base

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"


def config(**settings):
    quick = dict(problems_per_generation=3, judged_problems=1, solve_tokens=6, judge_tokens=3,
                 offspring=2, spread=0.5, mutation=0.1)  # fmt: skip
    return EvolutionConfig(**{**quick, **settings})


def make(folder=None, settings=None, size=4, problems=SPEC, **options):
    population = LoraPopulation(make_tiny_base(), size, 2)
    return EvolutionManager(population, problems, settings or config(), folder=folder, **options)


def test_ask_and_tell_in_order():
    manager = make()
    with pytest.raises(RuntimeError, match="ask first"):
        manager.tell([])
    plan = manager.ask()
    assert manager.ask() is plan
    assert len(plan.problems) == 3
    assert plan.judged == (True, False, False)
    transcripts = manager.play(plan)
    with pytest.raises(ValueError, match="transcripts: got 2, expected"):
        manager.tell(transcripts[:2])
    result = manager.tell(transcripts)
    assert result.generation == 0
    assert result.scores.returns == pytest.approx(
        [np.mean([t.rewards[a] for t in transcripts]) for a in manager.population.agents]
    )
    assert manager.ask().generation == 1
    manager.close()


def test_fitness_is_return_plus_weighted_diversity():
    manager = make(settings=config(diversity_weight=2.0, diversity_bar="none"))
    scores = manager.run(1)[0].scores
    assert (scores.diversity > 0).all()
    assert scores.bonus == pytest.approx(2 * scores.diversity)
    assert scores.fitness == pytest.approx(scores.returns + scores.bonus)
    assert 1 < scores.vendi <= 4


def test_a_newborns_lucky_generation_does_not_beat_a_proven_lead():
    manager = make()
    results = [manager.run(1)[0] for _ in range(2)]
    lead = sum(0.8 ** (1 - i) * (r.scores.fitness - r.scores.fitness.mean())
               for i, r in enumerate(results))  # fmt: skip
    settled = [i for i in range(4) if manager._standing.evidence[i] > 1]
    assert settled
    assert manager.standing[settled] == pytest.approx(lead[settled] / (1.8 + 1))


def test_the_first_population_is_a_recorded_mutation_of_the_base():
    manager = make()
    lora = manager.population.lora
    assert not any(layer.B.any() for layer in lora.layers())
    born = manager.ask().born
    assert [i.operator for i in born] == ["spread"] * 4
    assert [i.content_hash for i in born] == [content_hash(lora, i) for i in range(4)]
    assert len({i.content_hash for i in born}) == 4


def test_only_the_least_fit_are_replaced_and_elites_stay_as_they_are():
    settings = config(learner=Learner.NONE, offspring=3, elites=1, evolve_every=1)
    manager = make(settings=settings)
    manager.run(1)
    standing = manager.standing
    hashes = [content_hash(manager.population.lora, i) for i in range(4)]
    born = manager.ask().born
    best = int(np.argmax(standing))
    assert sorted(i.slot for i in born) == [i for i in range(4) if i != best]
    after = [content_hash(manager.population.lora, i) for i in range(4)]
    assert after[best] == hashes[best]
    assert all(after[i] != hashes[i] for i in range(4) if i != best)
    assert all(manager.standing[i.slot] == 0 for i in born)
    names = {i.name for i in manager.lineage}
    assert all(set(i.parents) <= names and len(i.parents) == 2 for i in born)


def test_learning_changes_weights_and_none_does_not():
    for learner, changes in ((Learner.POLICY_GRADIENT, True), (Learner.NONE, False)):
        manager = make(settings=config(learner=learner))
        plan = manager.ask()
        before = [content_hash(manager.population.lora, i) for i in range(4)]
        result = manager.tell(manager.play(plan))
        after = [content_hash(manager.population.lora, i) for i in range(4)]
        assert (before != after) is changes
        assert (result.learning is not None) is changes


def test_what_learning_breaks_is_in_that_generations_result_and_history(tmp_path):
    manager = make(tmp_path)
    step = manager._learner.step

    def poisoned(*given, **how):
        stats = step(*given, **how)
        next(manager.population.lora.layers()).B[1] = float("nan")
        return stats

    manager._learner.step = poisoned
    (result,) = manager.run(1)
    assert [i.broken for i in result.individuals] == [None, 0, None, None]
    assert [i.fitness is None for i in result.individuals] == [False, True, False, False]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["broken"] for row in rows] == [False, True, False, False]


def test_transcripts_played_elsewhere_can_be_told():
    one, other = make(), make()
    transcripts = one.play(one.ask())
    other.ask()
    result = other.tell(transcripts)
    assert result.learning is not None
    assert np.isfinite(result.scores.fitness).all()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_history_and_another_another(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / name, config(seed=seed)).run(2)
    read = [(tmp_path / n / "history.jsonl").read_bytes() for n in "abc"]
    assert read[0] == read[1] != read[2]


@pytest.mark.slow
@pytest.mark.parametrize("learner", list(Learner))
def test_resumed_equals_uninterrupted(tmp_path, learner):
    settings = config(learner=learner, evolve_every=2)
    make(tmp_path / "whole", settings).run(4)
    make(tmp_path / "parts", settings).run(2)
    # Rows of a generation that was never finished are cut off.
    with (tmp_path / "parts" / "history.jsonl").open("a") as file:
        file.write('{"generation": 2, "agent": "half')
    (tmp_path / "parts" / ".generation_0002.tmp").mkdir()
    manager = make(settings=settings)
    manager.resume(tmp_path / "parts")
    assert manager.generation == 2
    manager.run(2)
    for name in ("history.jsonl", "transcripts.jsonl", "lineage.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert not list((tmp_path / "parts").glob(".generation_*"))
    kept = sorted(p.name for p in (tmp_path / "parts").glob("generation_*"))
    assert kept == ["generation_0002", "generation_0003"]


def test_history_has_a_row_per_agent_and_generation(tmp_path):
    make(tmp_path).run(2)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").open()]
    assert [(r["generation"], r["agent"]) for r in rows] == [
        (g, f"agent_{i}") for g in range(2) for i in range(4)
    ]
    assert all(sum(r["best"] for r in rows if r["generation"] == g) == 1 for g in range(2))


@pytest.mark.parametrize("name", ["state.safetensors", "adapters/agent_1/adapter_config.json"])
def test_a_damaged_generation_is_refused(tmp_path, name):
    make(tmp_path).run(1)
    file = tmp_path / "generation_0000" / name
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        make().resume(tmp_path)


def test_nothing_to_resume_and_a_folder_in_use(tmp_path):
    with pytest.raises(CheckpointError, match="no complete generation"):
        make().resume(tmp_path)
    make(tmp_path).run(1)
    with pytest.raises(CheckpointError, match="already holds a run"):
        make(tmp_path).ask()


def test_held_out_problems_are_never_trained_on():
    held_out = load_problems(SPEC, split="test").distinct(40)
    manager = make(exclude=held_out, settings=config(problems_per_generation=40))
    drawn = {problem.prompt for problem in manager.ask().problems}
    assert len(drawn) == 40
    assert not drawn & {problem.prompt for problem in held_out}


def test_questions_that_are_held_out_in_another_form_are_not_trained_on():
    rows = [Problem.create(f"q{n}\nand more", str(n)) for n in range(12)]
    held_out = [
        Problem.create(f"q{n}\r\nand  more", f"{n}.0", answer_kind=AnswerKind.TEXT)
        for n in range(8)
    ]
    with pytest.warns(UserWarning, match="8 of the 12 given for training are held out"):
        manager = make(problems=rows, exclude=held_out, settings=config(problems_per_generation=9))
    assert {p.prompt[:3].strip() for p in manager.ask().problems} == {"q8", "q9", "q10", "q11"}
    with pytest.raises(ConfigError, match=r"problems: all 8 of .* are held out, expected others"):
        make(problems=rows[:8], exclude=held_out)


def test_arguments_of_another_type_are_named():
    population = LoraPopulation(make_tiny_base(), 2, 2)
    with pytest.raises(TypeError, match=r"population: got str, expected a LoraPopulation"):
        EvolutionManager("x", SPEC)
    for wrong in ({"size": 2}, {}):
        with pytest.raises(TypeError, match=r"config: got dict, expected an EvolutionConfig"):
            EvolutionManager(population, SPEC, wrong)


def test_one_logger_by_itself_is_one_of_a_list():
    seen = []
    manager = make(loggers=lambda result, transcripts: seen.append(result.generation))
    manager.run(1)
    manager.close()
    assert seen == [0]


def test_settings_that_do_not_fit_the_population():
    with pytest.raises(ConfigError, match=r"elites \+ offspring: got 2 \+ 4"):
        make(settings=config(offspring=4))


def test_what_is_left_open_follows_the_learner_and_the_size():
    learns = EvolutionConfig().resolved(8)
    assert (learns.evolve_every, learns.offspring, learns.temperature) == (5, 2, 0.8)
    alone = EvolutionConfig(learner=Learner.NONE).resolved(8)
    assert (alone.evolve_every, alone.offspring, alone.temperature) == (4, 6, 0.0)
    strategy = EvolutionConfig(learner=Learner.NONE, exchange="evolution_strategy").resolved(8)
    assert strategy.evolve_every == 1
    assert EvolutionConfig(offspring=3).resolved(8).offspring == 3
    assert EvolutionConfig().resolved(2).offspring == 0
    with pytest.raises(ConfigError, match="temperature: got 0"):
        EvolutionConfig(temperature=0).resolved(8)
    with pytest.raises(ConfigError, match="parents: got 2, expected at most size = 1"):
        EvolutionConfig(elites=1).resolved(1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"mutation": float("nan")}, "mutation: got nan"),
        ({"crossover": "magic"}, "crossover: got 'magic', expected one of"),
        ({"fitness_memory": 1.0}, "fitness_memory"),
        ({"judged_problems": 9}, "judged_problems: got 9, expected at most"),
        ({"learner": "x"}, "learner: got 'x'"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        config(**settings)


class PrefersLonger:
    def judge(self, comparisons):
        return [
            Verdict(Preference.A if len(entry.first) > len(entry.second) else Preference.B)
            for entry in comparisons
        ]


@pytest.mark.parametrize("rewards", REWARD_PRESETS)
def test_the_whole_loop_runs_without_a_known_answer(rewards, tmp_path):
    problems = [Problem.create(f"Say {number}.", None) for number in range(6)]
    settings = config(
        evaluation="score+compare+critique", revise=True, rewards=rewards, matchmaking="rating",
        critique_tokens=3, evolve_every=1, judged_problems=2,
    )  # fmt: skip
    population = LoraPopulation(make_tiny_base(), 4, 2)
    manager = EvolutionManager(
        population, problems, settings, folder=tmp_path, judge=PrefersLonger()
    )
    results = manager.run(2)
    assert all(np.isfinite(result.scores.fitness).all() for result in results)
    assert all(np.isnan(result.scores.accuracy).all() for result in results)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert all(row["accuracy"] is None and row["rating"] is not None for row in rows)
    stored = [json.loads(line) for line in (tmp_path / "transcripts.jsonl").open()]
    phases = [{turn["phase"] for turn in episode["turns"]} for episode in stored]
    everything = {"solve", "score", "compare", "critique", "revise"}
    assert phases == [everything, everything, {"solve"}] * 2
    manager.close()


def test_children_start_from_their_parents_ratings_and_a_resumed_run_knows_them(tmp_path):
    settings = config(evolve_every=2, offspring=2, learner="none", rewards="external_judge")
    manager = make(tmp_path, settings, judge=PrefersLonger())
    manager.run(2)
    before = {agent: manager.ratings.rating(agent) for agent in manager.population.agents}
    assert len({rating.mu for rating in before.values()}) > 1
    resumed = make(settings=settings, judge=PrefersLonger())
    resumed.resume(tmp_path)
    assert resumed.ratings.to_dict() == manager.ratings.to_dict()
    born = manager.ask().born
    assert len(born) == 2
    living = {individual.name: individual.slot for individual in manager.lineage[:4]}
    for child in born:
        agent = manager.population.agents[child.slot]
        parents = [before[manager.population.agents[living[name]]].mu for name in child.parents]
        assert manager.ratings.rating(agent).mu == pytest.approx(np.mean(parents))
        assert manager.ratings.rating(agent).sigma > before[agent].sigma
