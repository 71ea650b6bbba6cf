from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tomli_w
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from agents.engine.generation import Job, generate
from agents.learning.learners import PolicyGradient
from agents.loading.models import load_base
from agents.policy import ScriptedPolicy
from agents.population import LoraPopulation
from agents.rollout import rollout
from evolution.cli import main
from evolution.commands.distill import command as distill
from evolution.commands.distill.measure import figures
from evolution.commands.distill.replies import Verified, choose, from_transcripts, sampled
from evolution.operators import mutation_weights as mutation
from evolution.runs.checkpoint import RunFolder
from evolution.runs.saved_run import SavedRun, read_run
from populora_env.arena import ReasoningArena
from populora_env.grading import Grader
from populora_env.problems import load_problems
from populora_env.records import Phase, Problem
from tests.conftest import make_tiny_base

SUMS = "procedural:chain_sum(max_terms=2,max_digits=1)"
FAST = ["--epochs", "1", "--batch", "4"]


class Answering:
    """Some agents know the answer to every problem, agent_1 never does."""

    def __init__(self, problems):
        self.problems = problems

    def act(self, requests):
        replies = []
        for request in requests:
            answer = next((p.answer for p in self.problems if p.prompt in request.prompt), "0")
            form = {"agent_0": "Answer: {}", "agent_1": "no idea", "agent_2": "It is {}."}
            reply = form[request.agent].format(answer)
            replies.append(reply if request.phase is Phase.SOLVE else "A")
        return replies


def played(problems, policy):
    with Grader() as grader:
        arenas = [
            ReasoningArena([problem], num_agents=3, evaluation="none", grader=grader)
            for problem in problems
        ]
        return rollout(policy, arenas, problems)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and a run whose transcripts hold right and wrong attempts."""
    folder = tmp_path_factory.mktemp("distill")
    base = make_tiny_base()
    base.model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    population = LoraPopulation(base, 3, 2)
    mutation.spread(population.lora, 0.5, 1)
    run = RunFolder(folder / "run")
    run.save(1, population, {}, {}, keep=2)
    population.lora.detach()
    config = {
        "model": str(folder / "model"), "size": 3, "rank": 2, "problems": SUMS, "seed": 4,
        "solve_tokens": 11, "held_out": 5, "max_rows": 16,
    }  # fmt: skip
    run.write("run.toml", tomli_w.dumps({"config": config}))
    rows = ({"generation": 1, "agent": f"agent_{i}", "best": i == 1, "standing": 0.1 * i}
            for i in range(3))  # fmt: skip
    run.append("history.jsonl", rows)
    train = load_problems(SUMS, split="train", seed=4).distinct(6)
    held_out = load_problems(SUMS, split="test", seed=4).distinct(5)
    leaked = held_out[0]  # no run does this; distilling must not rely on it
    for generation, problems in ((0, train[:4]), (1, [train[0], leaked]), (2, train[4:])):
        transcripts = played(problems, Answering([*train, leaked]))
        run.append(
            "transcripts.jsonl",
            ({"generation": generation, **t.to_dict()} for t in transcripts),
        )
    return folder


@pytest.fixture
def base(saved):
    return load_base(str(saved / "model"))


def held_out_problems():
    return load_problems(SUMS, split="test", seed=4).distinct(5)


def distilled(saved, out, *more):
    assert main(["distill", str(saved / "run"), "--out", str(out), *FAST, *more]) == 0
    return json.loads((out / "distill.json").read_text(encoding="utf-8"))


def test_verified_replies_are_right_and_on_training_problems(saved, base):
    train = load_problems(SUMS, split="train", seed=4).distinct(6)
    found = from_transcripts(read_run(saved / "run"), base, held_out_problems())
    # Two right attempts on four problems and once more on the first; generation 2 is not whole.
    assert len(found) == 10
    assert {reply.problem for reply in found} == {problem.id for problem in train[:4]}
    assert "no idea" not in {reply.text for reply in found}
    answers = {problem.id: problem.answer for problem in train}
    for reply in found:
        assert answers[reply.problem] in reply.text
        assert base.tokenizer.decode(reply.reply_ids, skip_special_tokens=True) == reply.text
        prompt = base.tokenizer.decode(reply.prompt_ids)
        assert next(p.prompt for p in train if p.id == reply.problem) in prompt


def test_only_replies_shorter_than_the_limit_get_their_end(saved, base):
    end = base.tokenizer.eos_token_id
    for reply in from_transcripts(read_run(saved / "run"), base, held_out_problems()):
        whole = len(reply.text.encode())  # a token a byte, limit 11
        assert (reply.reply_ids[-1] == end) == (whole < 11)
        assert len(reply.reply_ids) == whole + (whole < 11)


def test_the_limit_is_that_of_the_replys_own_generation(saved, base, monkeypatch):
    run, usual = read_run(saved / "run"), SavedRun.settings
    limits = {generation: 1000 if generation == 0 else 1 for generation in range(99)}
    monkeypatch.setattr(
        SavedRun, "settings", lambda self, g=None: replace(usual(self, g), solve_tokens=limits[g])
    )
    end = base.tokenizer.eos_token_id
    ended = [reply.reply_ids[-1] == end for reply in from_transcripts(run, base, [])]
    assert {True, False} == set(ended)


def test_choosing_limits_and_drops_repeats():
    replies = [Verified(p, f" {t} ", (1,), (2,)) for p in "ab" for t in ("x", "y", "x", "z", "w")]
    chosen = choose(replies, 3, 0)
    for problem in "ab":
        texts = [reply.text for reply in chosen if reply.problem == problem]
        assert len(set(texts)) == len(texts) == 3
    assert choose(replies, 3, 0) == chosen
    assert any(choose(replies, 3, seed) != chosen for seed in range(1, 9))
    assert len(choose(replies, 9, 0)) == 8


@pytest.mark.usefixtures("shared_generators")  # PEFT draws the first weights of what it loads
def test_the_whole_command(saved, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "out"
    record = distilled(saved, out)
    said = capsys.readouterr().out
    assert (record["verified"], record["used"], record["problems"]) == (10, 8, 4)
    assert (record["start"], record["source"], record["steps"]) == ("merge", "transcripts", 2)
    assert record["merge"]["relative_error"] < 1  # members that share rows merge well
    measured = record["held_out"]
    assert measured["problems"] == 5
    assert measured["best_agent"] == "agent_1"
    for name in ("base", "best", "vote", "merged", "distilled", "mean"):
        assert 0 <= measured[name]["accuracy"] <= 1
        change = measured[name]["accuracy"] - measured["base"]["accuracy"]
        assert measured[name]["change"] == pytest.approx(change)
    for who in ("bare base", "best (agent_1)", "majority vote", "merged", "distilled"):
        assert who in said
    assert all(len(line) <= 80 for line in said.splitlines() if line[:1] in "│┃┏└")
    for folder in (out, out / "merged"):
        model = AutoModelForCausalLM.from_pretrained(saved / "model")
        PeftModel.from_pretrained(model, folder)
    assert not list(tmp_path.glob(".*"))
    assert not list(out.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["merge", "base"])
def test_what_was_learned_becomes_likelier(saved, base, capsys, tmp_path, start):
    more = ["--start", start, "--epochs", "60", "--learning-rate", "0.02"]
    record = distilled(saved, tmp_path / "out", *more)
    assert record["steps"] == 60 * 2
    population = LoraPopulation(base, 2, 2)
    population.load_adapter("agent_0", tmp_path / "out")
    population.load_adapter("agent_1", tmp_path / "out" / "merged")
    found = from_transcripts(read_run(saved / "run"), base, held_out_problems())
    jobs = [Job(who, r.prompt_ids, len(r.reply_ids), 0) for who in (0, 1) for r in found]
    replies = generate(base, population.lora, jobs, temperature=0)
    said = [base.tokenizer.decode(reply.ids, skip_special_tokens=True) for reply in replies]
    after, before = (
        sum(text[:4] in ("Answ", "It i") for text in part)
        for part in (said[: len(found)], said[len(found) :])
    )
    assert after > len(found) // 2 > before


def test_fresh_replies_are_sampled_from_training_problems(saved, base, capsys, tmp_path):
    problem = Problem.create("Say anything.", "1")
    population = LoraPopulation(base, 2, 2)
    population.max_rows = 8
    mutation.spread(population.lora, 0.5, 1)
    asked = []

    class AllRight:
        def grade_many(self, pairs):
            asked.extend(pairs)
            with Grader() as grader:
                return [grader.grade(problem, "Answer: 1" if i % 2 else "Answer: 2")
                        for i in range(len(pairs))]  # fmt: skip

    problems = load_problems(SUMS, split="train", seed=4).distinct(3)
    told = []
    options = dict(count=2, max_new_tokens=6, temperature=1.0, seed=0,
                   progress=lambda *what: told.append(what))  # fmt: skip
    found = sampled(population, population.agents, problems, AllRight(), **options)
    population.lora.detach()
    assert len(asked) == 12
    assert len(found) == 6
    assert told[-1] == ("sampling", 1.0)
    for reply, (problem, text) in zip(found, asked[1::2], strict=True):
        assert (reply.problem, reply.text) == (problem.id, text)
        ids = [i for i in reply.reply_ids if i != base.tokenizer.eos_token_id]
        assert base.tokenizer.decode(ids, skip_special_tokens=True) == text
        assert 1 <= len(reply.reply_ids) <= 6
    assert len({text for _, text in asked}) > 6
    # A random model is never right: the command samples, and says so.
    words = ["distill", str(saved / "run"), "--out", str(tmp_path / "out"), "--sample", "1"]
    assert main([*words, "--sample-problems", "2"]) == 2
    said = capsys.readouterr().err
    assert "sample: none of the fresh replies is right; ask for more" in said
    assert list(tmp_path.iterdir()) == []


def test_figures_by_hand():
    right = {
        "base": [0.0, 0, 1, 0],
        "agent_0": [1.0, 1, 1, 0],
        "agent_1": [0.0, 0, 1, 0],
        "merged": [1.0, 0, 0, 0],
        "distilled": [1.0, 1, 1, 1],
        "vote": [0.0, 1, 1, 0],
    }
    found = figures(right, "agent_0")
    assert found["problems"] == 4
    accuracy = {name: found[name]["accuracy"] for name in ("base", "best", "mean", "vote")}
    assert accuracy == {"base": 0.25, "best": 0.75, "mean": 0.5, "vote": 0.5}
    assert found["distilled"]["change"] == 0.75
    error = np.std([1, 1, 0, 1], ddof=1) / 2
    assert found["distilled"]["change_standard_error"] == pytest.approx(error)
    assert found["base"]["change_standard_error"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "--epochs", "0"], "epochs: got 0, expected an integer >= 1"),
        (["RUN", "--sample", "-1"], "sample: got -1, expected an integer >= 0"),
        (["RUN", "--learning-rate", "inf"], "learning_rate: got inf, expected a finite number"),
        (["RUN", "--start", "zero"], "zero"),
        (["/no/run"], "run: /no/run is no run folder"),
        ([], "Run folder"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(saved, capsys, tmp_path, arguments, said):
    words = [str(saved / "run") if word == "RUN" else word for word in arguments]
    assert main(["distill", *words, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_damaged_transcripts_are_one_line(saved, base, tmp_path):
    (tmp_path / "transcripts.jsonl").write_text('{"generation": 0, "turns": []}\n')
    with pytest.raises(
        distill.UsageError, match=r"transcripts.jsonl, line 1 is damaged \(data is not a stored tr"
    ):
        from_transcripts(SavedRun(tmp_path), base, [])


def test_interrupted_while_learning_leaves_nothing(saved, capsys, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PolicyGradient, "step", interrupt)
    assert main(["distill", str(saved / "run"), "--out", str(tmp_path / "out"), *FAST]) == 130
    assert list(tmp_path.iterdir()) == []


def test_interrupted_while_measuring_keeps_the_adapter(saved, capsys, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "measure", interrupt)
    out = tmp_path / "out"
    assert main(["distill", str(saved / "run"), "--out", str(out), *FAST]) == 130
    said = " ".join(capsys.readouterr().out.split())
    assert "Interrupted; the adapter is whole, but was not measured." in said
    assert json.loads((out / "distill.json").read_text())["held_out"] is None
    assert (out / "adapter_model.safetensors").is_file()


def test_the_base_is_left_bare(saved, base, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(distill, "load_base", lambda *_, **__: base)
    ids = torch.tensor([base.chat_ids("hello")])
    with torch.no_grad():
        before = base.model(ids).logits
    distilled(saved, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, before)


def test_scripted_replies_without_a_right_answer_are_refused(saved, capsys, tmp_path):
    run = RunFolder(tmp_path / "run")
    for name in ("run.toml", "history.jsonl"):
        run.write(name, (saved / "run" / name).read_text())
    (tmp_path / "run" / "generation_0001").symlink_to(saved / "run" / "generation_0001")
    train = load_problems(SUMS, split="train", seed=4).distinct(2)
    wrong = played(train, ScriptedPolicy({}, "no idea"))
    run.append("transcripts.jsonl", ({"generation": 1, **t.to_dict()} for t in wrong))
    assert main(["distill", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "none of its replies is known to be right" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_record_follows_no_links(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in (".distill.json.tmp", "distill.json"):
        (folder / name).symlink_to(victim)
    distill._write(folder, {"run": "a"})
    assert victim.read_text() == "mine"
    assert json.loads((folder / "distill.json").read_text()) == {"run": "a"}
    assert not (folder / "distill.json").is_symlink()
