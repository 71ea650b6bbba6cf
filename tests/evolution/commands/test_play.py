from __future__ import annotations

import io
import json
import re
import sys

import pytest
import torch

from agents import FunctionPolicy, ScriptedPolicy
from agents.loading import models
from agents.peft_io import write_adapter
from agents.population import LoraPopulation
from evolution.cli import main
from evolution.commands.play import players as playing
from evolution.commands.play.players import HumanPolicy, read_players
from evolution.errors import UsageError
from evolution.operators import mutation_weights as mutation
from evolution.runs.checkpoint import RunFolder
from populora_env.records import Phase, Request, Transcript
from tests.conftest import make_tiny_base

SECRET = "peers-secret"
ADD = ["--prompt", "What is 2 + 3?", "--answer", "5"]
FAST = ["--solve-tokens", "5", "--judge-tokens", "3", "--critique-tokens", "3"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder, and beside it a run of two generations with adapters of rank 2 and 3."""
    folder = tmp_path_factory.mktemp("play")
    base = make_tiny_base()
    base.model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    for rank, best in ((2, False), (3, True)):
        population = LoraPopulation(base, 3, rank)
        mutation.spread(population.lora, 0.5, rank)
        if best:
            population.save_adapter("agent_1", folder / "run" / "best")
        else:
            run = RunFolder(folder / "run")
            for generation in (9, 10):
                run.save(generation, population, {}, {}, keep=2)
        population.lora.detach()
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def give(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", None if text is None else io.StringIO(text))


def watch(capsys, *arguments):
    assert main(["play", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def rows_of(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_without_a_model_an_episode_is_shown_as_it_happens(capsys, monkeypatch):
    monkeypatch.setattr(models, "load_base", lambda *_: pytest.fail("loaded a model"))
    said = watch(capsys, "--agents", "random*3", *ADD)
    parts = ["What is 2 + 3?", "round 0: solve", "round 1: compare", "round 2: compare",
             "known answer: 5", "return"]  # fmt: skip
    places = [said.index(part) for part in parts]
    assert places == sorted(places)
    assert all(f"agent_{i} (random), " in said for i in range(3))
    assert said == watch(capsys, "--agents", "random*3", *ADD)
    assert said != watch(capsys, "--agents", "random*3", *ADD, "--seed", "1")


def test_a_person_plays(capsys, monkeypatch, tmp_path):
    give(monkeypatch, "Two and three.\nThe answer is 5.\n\nA\n\nB\n\n")
    file = tmp_path / "t.jsonl"
    said = watch(capsys, "--agents", "human,random,random", "--transcript", str(file), *ADD)
    assert "agent_0, it is your turn (solve)" in said
    assert "agent_0 (human), read as 5 (ok)" in said
    assert "agent_0 (human), read as A (ok)" in said
    (row,) = rows_of(file)
    assert row["players"] == {"agent_0": "human", "agent_1": "random", "agent_2": "random"}
    transcript = Transcript.from_dict(row)
    assert transcript.attempts[0].text == "Two and three.\nThe answer is 5."
    assert [turn.reply for turn in transcript.turns if turn.agent == "agent_0"][1:] == ["A", "B"]
    # What the table says each part added comes to the return.
    line = next(line for line in said.splitlines() if re.match(r" *agent_0 human +5 ", line))
    *added, total = map(float, re.findall(r"-?\d+\.\d{3}", line))
    assert sum(added) == pytest.approx(total, abs=0.002)
    assert transcript.rewards["agent_0"] == pytest.approx(total, abs=0.0006)


def test_a_person_plays_several_agents(capsys, monkeypatch, tmp_path):
    give(monkeypatch, "4\n\n5\n\n")
    file = tmp_path / "t.jsonl"
    watch(capsys, "--agents", "human*2", "--evaluation", "none", "--transcript", str(file), *ADD)
    (row,) = rows_of(file)
    assert [attempt["text"] for attempt in row["attempts"]] == ["4", "5"]


@pytest.mark.parametrize("text", [None, "", "5", "5\n"])
def test_the_episode_goes_on_when_the_input_ends(capsys, monkeypatch, tmp_path, text):
    give(monkeypatch, text)
    file = tmp_path / "t.jsonl"
    said = watch(capsys, "--agents", "human,random*2", "--transcript", str(file), *ADD)
    assert said.count("the input has ended") == (text is not None)
    (row,) = rows_of(file)
    mine = [turn["reply"] for turn in row["turns"] if turn["agent"] == "agent_0"]
    assert mine == [(text or "").strip(), "", ""]
    assert "not read: empty" in said


class Closed:
    def readline(self):
        raise ValueError("I/O operation on closed file")


def test_a_closed_input_gives_empty_replies():
    console = playing.Console(file=io.StringIO())
    requests = [Request("agent_0", Phase.SOLVE, "?"), Request("agent_1", Phase.SOLVE, "?")]
    assert HumanPolicy(console, Closed()).act(requests) == ["", ""]


class Peeking(io.StringIO):
    """Typed text that notes what was on the screen whenever somebody is waited for."""

    def __init__(self, text, capsys):
        super().__init__(text)
        self.capsys, self.screen, self.seen = capsys, "", []

    def readline(self, *_):
        self.screen += self.capsys.readouterr().out
        self.seen.append(self.screen)
        return super().readline()


@pytest.mark.parametrize("players", ["human,random,random", "random,random,human,human"])
def test_nobody_peeks(capsys, monkeypatch, players):
    typed = Peeking("mine\n\n" * 20, capsys)
    monkeypatch.setattr(sys, "stdin", typed)
    peer = FunctionPolicy(lambda _: f"{SECRET} 777")
    monkeypatch.setattr(playing, "RandomPolicy", lambda: peer)
    arguments = ["--prompt", "How many?", "--answer", "987654", "--revise"]
    forms = ["--evaluation", "score+compare+critique"]
    assert main(["play", "--agents", players, *arguments, *forms]) == 0
    end = capsys.readouterr().out
    assert len(typed.seen) >= 10
    for screen in typed.seen:
        assert "987654" not in screen
        assert "(random), " not in screen
        assert "what each part" not in screen
        quoted = [line for line in screen.splitlines() if SECRET in line]
        assert all(re.match(r" {4}> ", line) for line in quoted)
    first = typed.seen[0]
    assert SECRET not in first
    assert "known answer: 987654" in end
    assert end.index("what the others wrote") < end.index(SECRET)


def test_with_nobody_at_the_keyboard_nothing_is_held_back(capsys, monkeypatch):
    monkeypatch.setattr(playing, "RandomPolicy", lambda: FunctionPolicy(lambda _: f"{SECRET} 777"))
    said = watch(capsys, "--agents", "random*3", *ADD)
    assert said.index(SECRET) < said.index("round 1: compare")
    assert "what the others wrote" not in said


def test_control_characters_do_not_reach_the_terminal(capsys, monkeypatch, tmp_path):
    evil = "\x1b[2J\x07\r\x9b[31m [bold]5[/bold]"
    monkeypatch.setattr(playing, "RandomPolicy", lambda: FunctionPolicy(lambda _: evil))
    give(monkeypatch, "\x1b[A5\n\nB\n\n\n")
    file = tmp_path / "t.jsonl"
    arguments = ["--agents", "human,random*2", "--transcript", str(file)]
    said = watch(capsys, *arguments, "--prompt", "2\x1b[0m + \udc80 3?", "--answer", "5")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", said)
    assert "[bold]5[/bold]" in said  # shown as it is, not as markup
    (row,) = rows_of(file)
    assert row["attempts"][1]["text"] == evil


def test_scores_critiques_and_revisions_are_told(capsys, monkeypatch):
    replies = {Phase.SOLVE: "4", Phase.SCORE: "8", Phase.CRITIQUE: "Verdict: incorrect"}
    monkeypatch.setattr(playing, "RandomPolicy", lambda: ScriptedPolicy(replies, "Answer: 5"))
    said = watch(capsys, "--agents", "random*2", "--evaluation", "score+critique", "--revise", *ADD)
    assert "read as 0.8 (ok)" in said
    assert "read as incorrect (ok)" in said
    assert "agent_0: score of agent_1: 0.8" in said
    assert "agent_0: critique of agent_1: incorrect" in said
    assert re.search(r"agent_1 random +5 +correct", said)


def test_several_episodes_have_different_problems(capsys, tmp_path):
    file = tmp_path / "t.jsonl"
    for _ in range(2):
        arguments = ["--agents", "random", "--episodes", "2", "--transcript", str(file)]
        said = watch(capsys, *arguments)
        assert "episode 1 of 2" in said
        assert "episode 2 of 2" in said
    rows = rows_of(file)
    assert len(rows) == 4  # appended to
    assert len({row["problem"]["id"] for row in rows}) == 2


@pytest.mark.parametrize(
    ("arguments", "kind", "status"),
    [
        (["--answer", "42"], "number", "correct"),
        (["--answer", "forty-two"], "text", "wrong"),
        (["--answer", "x+1", "--answer-kind", "math"], "math", "wrong"),
        ([], "number", "ungraded"),
    ],
)
def test_a_problem_of_ones_own(capsys, monkeypatch, tmp_path, arguments, kind, status):
    give(monkeypatch, "Answer: 42\n\n")
    file = tmp_path / "t.jsonl"
    common = ["--agents", "human", "--prompt", "How many?", "--transcript", str(file)]
    watch(capsys, *common, *arguments)
    (row,) = rows_of(file)
    assert row["problem"]["answer_kind"] == kind
    assert row["attempts"][0]["grade"]["status"] == status


def test_base_adapters_and_a_person_in_one_arena(capsys, monkeypatch, saved, tmp_path):
    run = saved / "run"
    give(monkeypatch, "5\n\n")
    calls = []
    generate = LoraPopulation.generate
    monkeypatch.setattr(
        LoraPopulation, "generate", lambda self, r, **k: calls.append(r) or generate(self, r, **k)
    )
    file = tmp_path / "t.jsonl"
    agents = f"base,{run},human,{run}:agent_2,{run / 'best'},base"
    said = watch(
        capsys, "--agents", agents, "--model", str(saved / "model"), *FAST, *ADD,
        "--temperature", "0", "--transcript", str(file),
    )  # fmt: skip
    assert f"agent_1 {run}, agent_2 human" in said
    (row,) = rows_of(file)
    texts = [attempt["text"] for attempt in row["attempts"]]
    assert texts[2] == "5"
    assert texts[0] == texts[5]  # the base twice
    assert texts[1] == texts[4]  # a run means its best adapter
    assert len({texts[0], texts[1], texts[3]}) == 3
    assert len(calls) == 3  # one call a round for all five
    # A folder that plays twice is loaded once, padded to the largest rank of all.
    assert [r.agent for r in calls[0]] == ["base", "agent_0", "agent_1", "agent_0", "base"]

    base = make_tiny_base()
    population = LoraPopulation(base, 1, 2)
    population.load_adapter("agent_0", run / "generation_0010" / "adapters" / "agent_2")
    prompt = row["turns"][0]["prompt"]
    requests = [Request(name, Phase.SOLVE, prompt, 5) for name in ("agent_0", "base")]
    assert population.greedy().act(requests) == [texts[3], texts[0]]


def test_sampled_replies_come_back_with_the_seed(capsys, saved):
    arguments = ["--agents", "base*2", "--model", str(saved / "model"), *FAST, *ADD]
    said = watch(capsys, *arguments)
    assert said == watch(capsys, *arguments)
    assert said != watch(capsys, *arguments, "--seed", "2")


def test_names_of_players(saved):
    run = saved / "run"
    players = read_players(f" base*2 , human,{run}:agent_0 ")
    assert [player.name for player in players] == ["base", "base", "human", f"{run}:agent_0"]
    assert players[3].folder == run / "generation_0010" / "adapters" / "agent_0"
    assert read_players(str(run))[0].folder == run / "best"
    with pytest.raises(UsageError, match="has no 'agent_7', expected one of agent_0, agent_1, ag"):
        read_players(f"{run}:agent_7")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agents", "bas"], "agents: got 'bas', expected base, human, random, an adapter"),
        (["--agents", ""], "agents: got an empty entry in ''"),
        (["--agents", "human,"], "agents: got an empty entry"),
        (["--agents", "human*0"], "*COUNT (1 to 999) repeats one"),
        (["--agents", "x" * 5000], "expected base, human, random"),
        (["--agents", "."], "is neither an adapter folder (adapter_config.json is missing) nor"),
        (["--agents", ".:agent_0"], "holds no complete generation"),
        (["--agents", "nowhere:agent_0"], "got 'nowhere:agent_0', expected"),
        (["--problems", "procedural:chain_sun"], "chain_sum"),
        (["--split", "half"], "'half'"),
        (["--evaluation", "vote"], "evaluation must be 'none', or some of"),
        (["--revise"], "revise needs critiques"),
        (["--judge-load", "0"], "judge_load: got 0, expected an integer >= 1"),
        (["--rewards", "none"], "rewards must be RewardWeights or one of default,"),
        (["--rewards", "external_judge"], "rewards: external_judge needs a judge"),
        (["--answer", "5"], "answer: got one without a prompt"),
        (["--answer-kind", "text"], "answer_kind: got one without a prompt"),
        (["--prompt", "?", "--answer", "x", "--answer-kind", "number"], "answer: got 'x'"),
        (["--episodes", "0"], "error: episodes: got 0, expected an integer >= 1"),
        (["--solve-tokens", "0"], "solve_tokens: got 0"),
        (["--temperature", "-1"], "temperature: got -1.0, expected a finite number >= 0"),
        (["--temperature", "hot"], "hot"),
        (["--transcript", "no/folder/t.jsonl"], "transcript: cannot write to no/folder/t.jsonl"),
        (["--model", "nowhere.gguf"], "no file 'nowhere.gguf'"),
        (["--dtype", "int3"], "dtype: got 'int3'"),
        (["--device", "abacus"], "device: got 'abacus', expected auto or one of this machine"),
        (["--colour"], "colour"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in one_line_error(capsys, arguments)


def one_line_error(capsys, arguments):
    assert main(["play", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("populora: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "not a readable PEFT adapter folder (Expecting property name"),
        ("[]", "adapter_config.json holds no object"),
        ("[" * 100_000, "adapter_config.json is nested too deeply"),
        ('{"r": 2, "lora_alpha": 4}', "peft_type is None, expected 'LORA'"),
        ('{"peft_type": "LORA", "r": "2", "lora_alpha": 4}', "r is '2', expected a number"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": null}', "lora_alpha is None, expected"),
        ('{"peft_type": "LORA", "r": 1000000000, "lora_alpha": 4}', "has rank 2, but"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}', "nowhere.q_proj has no place"),
        (None, "not a readable PEFT adapter folder"),
    ],
)
def test_an_adapter_that_cannot_play(capsys, saved, tmp_path, config, said):
    factors = {"nowhere.q_proj": (torch.ones(2, 48), torch.ones(48, 2))}
    write_adapter(tmp_path, factors, alpha=4, dropout=0, base="")
    if config is None:
        (tmp_path / "adapter_model.safetensors").unlink()
    else:
        (tmp_path / "adapter_config.json").write_text(config)
    arguments = ["--agents", str(tmp_path), "--model", str(saved / "model")]
    assert said in one_line_error(capsys, arguments)


def test_an_adapter_of_some_layers_plays(capsys, saved, tmp_path):
    population = LoraPopulation(make_tiny_base(), 1, 2, targets=("q_proj", "v_proj"))
    mutation.spread(population.lora, 0.5, 0)
    population.save_adapter("agent_0", tmp_path)
    arguments = ["--agents", f"{tmp_path},base", "--model", str(saved / "model"), *FAST, *ADD]
    assert f"agent_0 ({tmp_path}), " in watch(capsys, *arguments)


def test_a_prompt_beyond_the_context_is_one_line(capsys, saved):
    arguments = ["--agents", "base", "--model", str(saved / "model"), "--prompt", "x" * 3000]
    assert "exceed the model's context of 2048" in one_line_error(capsys, arguments)
