"""``populora bench-engine``: that it measures what it says; never how fast anything is."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from agents.compiled.native import kernel
from agents.learning.learners import LearnerConfig, PolicyGradient
from evolution.cli import main
from evolution.engine_benchmark import agreement as engine_agreement
from evolution.engine_benchmark import large as engine_large
from evolution.engine_benchmark import peers as engine_peers
from evolution.engine_benchmark import rows as engine_rows
from evolution.engine_benchmark.command import TARGETS, Target, table
from evolution.engine_benchmark.large import large_row, random_base
from evolution.engine_benchmark.peers import PeftPeer, PopuloraPackage, TransformersGenerate
from evolution.engine_benchmark.rows import (
    decode_greedily,
    evolution_step,
    learning_samples,
    slots_row,
)
from evolution.engine_benchmark.timing import Spread
from evolution.engine_benchmark.workbench import (
    Attachment,
    EndlessBase,
    Figure,
    Findings,
    Workbench,
    decode_seconds,
    stacked,
)
from populora_env.problems import load_problems
from tests.evolution.engine_benchmark.conftest import SIZES, SUMS

TINY = ["--rows", "6", "--agents", "2", "3", "--rounds", "2", "--rank", "4", "--new-tokens", "3",
        "--reply-tokens", "4", "--problems", SUMS]  # fmt: skip


@pytest.fixture
def peer_of(bench):
    """Our adapters, far from the base, and a peer with the same ones."""
    attachment = stacked(bench.base.model, 3, 4, 0)
    generator = torch.Generator().manual_seed(0)
    for layer in attachment.owner.layers():
        layer.B[:] = 0.5 * torch.randn(layer.B.shape, generator=generator)
    attachment.owner.set_alpha(1, 5.0)
    return lambda peer: (attachment, peer(bench.plain, attachment.owner))


def run(model_folder, capsys, tmp_path, *more):
    file = tmp_path / "engine.json"
    assert main(["bench-engine", "--model", model_folder, *TINY, "--json", str(file), *more]) == 0
    return json.loads(file.read_text(encoding="utf-8")), capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("shared_generators")  # PEFT draws its first weights from them
def test_the_whole_command(model_folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    data, said = run(model_folder, capsys, tmp_path)
    measured = [
        "base_decode_tokens_per_second", "population_decode_ratio_2", "population_decode_ratio_3",
        "peft_mixed_decode_ratio_2", "peft_mixed_decode_ratio_3", "peft_one_by_one_decode_ratio_2",
        "rollout_vs_generate_2", "population_rollout_2_tokens_per_second",
        "evolution_step_seconds_2", "evolution_step_seconds_3", "joint_learning_speedup_2",
        "joint_learning_seconds_2", "learning_six_agents_vs_one",
    ]  # fmt: skip
    for key in measured:
        assert math.isfinite(data[key]) and data[key] > 0, key  # noqa: PT018
        low, high = data["quartiles"][key]
        assert low <= data[key] <= high
    for key in ("peft_one_by_one_decode_ratio_3", "peft_one_by_one_decode_3"):
        assert key not in data
    if data["slot_efficiency"] is None:
        assert data["reasons"]["slot_efficiency"]
    else:
        assert 0 < data["slot_efficiency"] <= 1
    assert data["population_decode_ratio_8"] is None  # another size was measured
    assert data["reasons"]["population_decode_ratio_8"] == "not measured in this run"
    if importlib.util.find_spec("populora") is None:
        assert data["populora_package_decode_ratio_2"] is None
        assert data["reasons"]["populora_package_decode_ratio_2"] == "not installed"
    assert {len(values) for values in data["rounds"].values()} == {2}
    own, base = (data["rounds"][name] for name in ("population_decode_2", "base_decode"))
    ratio = np.median([a / b for a, b in zip(own, base, strict=True)])
    assert data["population_decode_ratio_2"] == pytest.approx(ratio)
    environment = data["environment"]
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert (environment["model"], environment["dtype"]) == (model_folder, "float32")
    assert (environment["rounds"], environment["rows"]) == (2, 6)
    assert environment["cpu"]
    assert environment["kernel"] == (made.compiler if (made := kernel()) else None)
    assert "2 agents, decoding / base" in said
    assert all(len(line) <= 80 for line in said.splitlines() if line[:1] in "│┃┏└")


def test_only_some_rows_and_quick(model_folder, capsys, tmp_path):
    data, said = run(model_folder, capsys, tmp_path, "--only", "evolution", "--quick")
    assert data["evolution_step_seconds_2"] > 0
    assert "population_decode_ratio_2" not in data
    assert data["slot_efficiency"] is None
    assert "decoding" not in said
    assert data["environment"]["new_tokens"] == 8


@pytest.mark.slow
def test_replies_alone_and_in_the_batch_are_compared(model_folder, capsys, tmp_path, monkeypatch):
    data, _ = run(model_folder, capsys, tmp_path, "--only", "agreement")
    assert data["agreement_greedy"] == data["agreement_sampled"] == 1
    assert data["targets"]["agreement_greedy"] == "≥ 0.99"
    real = engine_agreement.generate

    def broken(base, lora, jobs, **how):
        replies = real(base, lora, jobs, **how)
        return replies if len(jobs) > 1 or jobs[0].agent else [replace(replies[0], ids=(-1,))]

    monkeypatch.setattr(engine_agreement, "generate", broken)
    data, _ = run(model_folder, capsys, tmp_path, "--only", "agreement")
    assert data["agreement_greedy"] == pytest.approx(0.5)


def test_peers_that_are_not_installed_are_named(model_folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_rows, "imported", lambda name: None)
    data, said = run(model_folder, capsys, tmp_path, "--only", "decoding", "learning")
    for key in ("peft_mixed_decode_ratio_2", "peft_one_by_one_decode_ratio_2",
                "populora_package_decode_ratio_3", "joint_learning_speedup_2"):  # fmt: skip
        assert data[key] is None
        assert "not installed" in data["reasons"][key]
    assert data["population_decode_ratio_2"] > 0
    assert data["joint_learning_seconds_2"] > 0
    assert "not installed" in said


def test_other_libraries_may_be_left_out(model_folder, capsys, tmp_path, monkeypatch):
    for name in ("PeftPeer", "PopuloraPackage", "sampled_rate"):
        monkeypatch.setattr(engine_rows, name, None)  # whoever asked it would fail
    rows = ("decoding", "rollout", "evolution", "learning")
    data, said = run(model_folder, capsys, tmp_path, "--peer-rounds", "0", "--only", *rows)
    for key in ("peft_mixed_decode_ratio_2", "rollout_vs_generate_2", "joint_learning_speedup_2"):
        assert data[key] is None
    assert data["reasons"]["rollout_vs_generate_2"] == "left out: peer-rounds is 0"
    assert data["population_rollout_2_tokens_per_second"] > 0
    assert [f"{row} …" for row in rows] == [line for line in said.splitlines() if "…" in line][:4]


def test_six_agents_learn_from_the_replies_that_one_learns_from(bench, monkeypatch):
    learned = []

    class Learner:
        def __init__(self, base, lora, config=None):
            self.size = lora.size

        def step(self, samples):
            learned.append((self.size, samples))

    monkeypatch.setattr(engine_rows, "PolicyGradient", Learner)
    for contender in engine_rows._six_and_one(bench, "several", "one").values():
        assert contender(0) > 0
    (six, several), (also_six, one) = learned
    assert (six, also_six) == (6, 6)
    assert [sample.agent for sample in several] == list(range(6))
    assert len({tuple(sample.prompt_ids) for sample in several}) == 1
    assert one == [replace(sample, agent=0) for sample in several]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "rounds: got 0, expected an integer >= 1"),
        (["--rows", "12"], "rows: got 12, expected a multiple of agents = 8"),
        (["--agents", "4", "4"], "agents: got 4, 4, expected different integers >= 2"),
        (["--agents", "1"], "agents: got 1, expected"),
        (["--only", "speed"], "only: got 'speed', expected some of decoding, rollout"),
        (["--seed", "-1"], "seed: got -1, expected an integer >= 0"),
        (["--json", "/no/such/folder/x.json"], "expected a file in an existing folder"),
        (["--large", "huge"], "huge"),
        (["--problems", "procedural:chain_sun"], "chain_sum"),
        (["--model", "/no/such/folder"], "neither an existing folder"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(capsys, arguments, said):
    assert main(["bench-engine", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_verdicts():
    assert Target(0.9).verdict(0.9) == "reached"
    assert Target(0.9).verdict(0.81) == "10% below"
    assert Target(0.2, least=False).verdict(0.1) == "reached"
    assert Target(0.2, least=False).verdict(0.3) == "50% above"
    assert set(TARGETS) >= {"population_decode_ratio_8", "slot_efficiency"}
    figure = Figure("slot_efficiency", "useful tokens", Spread(0.5, 0.4, 0.6))
    assert table([figure]).row_count == 1


def test_adapters_are_on_the_model_only_while_they_are_asked_for(bench):
    model = bench.base.model
    ids = torch.tensor([bench.base.chat_ids("hello")])
    with torch.no_grad():
        bare = model(ids).logits
        attachment = stacked(model, 2, 4, 0)
        assert torch.equal(model(ids).logits, bare)
        with attachment.on() as lora:
            inside = model.get_submodule("model.layers.0.self_attn.q_proj")
            assert type(inside).__name__ == "StackedLinear"
            assert lora is attachment.owner
        assert torch.equal(model(ids).logits, bare)
        second = stacked(model, 3, 2, 0)  # which finds a bare model
        with pytest.raises(RuntimeError), second.on():
            raise RuntimeError
    assert not any(type(m).__name__ == "StackedLinear" for m in model.modules())


def test_nothing_to_attach_changes_nothing(tiny_base):
    attachment = Attachment(tiny_base.model, lambda: "owner")
    with attachment.on() as owner:
        assert owner == "owner"


def test_decoding_is_timed_from_the_logits_before_its_steps(bench, monkeypatch):
    base, prompts = EndlessBase.of(bench.base), bench.prompts(4)
    ticks = iter(range(1000))
    monkeypatch.setattr(
        "evolution.engine_benchmark.workbench.time.perf_counter", lambda: next(ticks)
    )
    replies = []

    def decode():
        replies.extend(decode_greedily(base, None, prompts, 5, 0))

    # One tick for each call of the output layer and one for the end.
    assert decode_seconds(base.model, 5, decode) == 6
    assert decode_seconds(base.model, 2, decode) == 3
    assert {len(reply.ids) for reply in replies} == {6}
    assert not base.model.get_output_embeddings()._forward_hooks
    with pytest.raises(RuntimeError, match="called 6 times in 9 steps"):
        decode_seconds(base.model, 9, decode)


def test_endless_replies_go_past_the_end(bench):
    prompts = bench.prompts(6)
    base = bench.base
    whole = [list(r.ids) for r in decode_greedily(EndlessBase.of(base), None, prompts, 60, 0)]
    ends = base.stop_ids()
    assert any(ends & set(ids[:-1]) for ids in whole)
    cut = [list(r.ids) for r in decode_greedily(base, None, prompts, 60, 0)]
    for ids, own in zip(whole, cut, strict=True):
        assert ids[: len(own)] == own
    plain = TransformersGenerate(bench.plain, sorted(ends))(prompts, 61, do_sample=False)
    for own, theirs in zip(cut, plain, strict=True):
        assert theirs[: len(own)] == own
        assert len(theirs) - len(own) == (theirs[-1] in ends)  # the end token is useful, too


def test_all_agents_get_the_same_problems_and_their_own_seeds(bench):
    jobs = bench.requests(3, 0, 6)
    assert [job.agent for job in jobs] == [0, 0, 1, 1, 2, 2]
    assert jobs[0].prompt_ids == jobs[2].prompt_ids != jobs[1].prompt_ids
    later = bench.requests(3, 1, 6)
    assert {tuple(job.prompt_ids) for job in jobs}.isdisjoint(tuple(j.prompt_ids) for j in later)
    assert len({job.seed for job in [*jobs, *later]}) == 12


def test_peft_decodes_the_same_tokens(bench, peer_of):
    attachment, peer = peer_of(PeftPeer)
    base, prompts = EndlessBase.of(bench.base), bench.prompts(6)
    bare = TransformersGenerate(bench.plain)(prompts, 6, do_sample=False)
    assert bare == [list(r.ids) for r in decode_greedily(base, None, prompts, 5, 0)]
    with attachment.on() as lora:
        ours = [list(r.ids) for r in decode_greedily(base, lora, prompts, 5, 3)]
    assert peer.mixed(prompts, 5, 3) == ours != bare
    assert peer.one_by_one_seconds(prompts, 5, 3) > 0


def test_peft_learns_the_same(bench, peer_of):
    attachment, peer = peer_of(PeftPeer)
    config = LearnerConfig(learning_rate=1e-3)
    with attachment.on() as lora:
        before = {layer.name: (layer.A.clone(), layer.B.clone()) for layer in lora.layers()}
        samples = learning_samples(bench.base, lora, bench.requests(3, 0, 6), 0)
        PolicyGradient(bench.base, lora, config).step(samples)
    assert peer.learner(config)(samples) > 0
    assert {sample.agent for sample in samples} == {0, 1, 2}
    for layer in attachment.owner.layers():
        pairs = zip((layer.A, layer.B), peer.factors(layer.name), before[layer.name], strict=True)
        for ours, theirs, old in pairs:
            assert not torch.equal(ours, old)
            cosine = torch.nn.functional.cosine_similarity(
                (ours - old).flatten(1), (theirs - old).flatten(1)
            )
            assert cosine.min() > 0.99, layer.name


@pytest.mark.skipif(importlib.util.find_spec("populora") is None, reason="not installed")
def test_the_populora_package_decodes_the_same_tokens(bench, peer_of):
    attachment, peer = peer_of(PopuloraPackage)
    base, prompts = EndlessBase.of(bench.base), bench.prompts(6)
    with attachment.on() as lora:
        ours = [list(r.ids) for r in decode_greedily(base, lora, prompts, 5, 3)]
    assert peer.decode(prompts, 5) == ours
    assert peer.evolve_seconds(np.array([1.0, 2.0, 3.0])) > 0


@pytest.mark.usefixtures("shared_generators")
def test_peers_leave_the_global_random_state_alone(bench, peer_of):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    peer_of(PeftPeer)
    rate = engine_peers.sampled_rate(bench.plain, [0], bench.prompts(2), 4, 0)
    assert rate > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_an_evolution_step_replaces_the_lesser_half(bench):
    attachment = stacked(bench.base.model, 4, 3, 0)
    lora = attachment.owner
    before = [layer.B.clone() for layer in lora.layers()]
    step = evolution_step(lora, bench.base, 1)
    assert step(-1) > 0
    changed = [
        any(
            not torch.equal(layer.B[i], old[i])
            for layer, old in zip(lora.layers(), before, strict=True)
        )
        for i in range(4)
    ]
    fitness = engine_rows._fitness(1, -1, 4)
    assert [i for i in range(4) if changed[i]] == sorted(np.argsort(fitness)[:2].tolist())


def test_slot_efficiency_is_the_engines_own(bench, monkeypatch):
    asked = []

    def generate(base, lora, jobs, *, temperature, max_rows, stats):
        asked.append((len(jobs), max_rows))
        stats.decoded, stats.slot_steps = 1, 4

    monkeypatch.setattr(engine_rows, "generate", generate)
    slots_row(bench)
    assert bench.findings.figures[-1].spread == Spread(0.25, 0.25, 0.25)
    assert asked == [(18, 6)] * 2


# The large base, at a size for tests


def large_config():
    return LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip


def measure_large(bench, **options):
    small = Workbench(bench.base, load_problems(SUMS, split="train", seed=0), SIZES)
    large_row(small, config=large_config(), dtype=torch.float32, **options)
    return {figure.key: figure for figure in small.findings.figures}, small.findings


@pytest.mark.slow
def test_a_large_base_is_measured(bench):
    peaks = iter([99.0, 5.0, 98.0, 7.0])
    figures, findings = measure_large(bench, peak=lambda: next(peaks), four_bits=(False,))
    assert figures["peak_memory_gib_7b_16"].spread.median == 7.0
    assert figures["peak_memory_gib_7b_16_decode"].spread.median == 5.0
    assert figures["peak_memory_gib_7b_16_learning"].spread.median == 7.0
    assert figures["population_decode_ratio_7b_16"].spread.median > 0
    assert figures["population_decode_7b_16_tokens_per_second"].spread.median > 0
    assert len(findings.rounds["joint_learning_seconds_7b_16"]) == SIZES.rounds


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="memory is measured on a GPU")
def test_without_a_gpu_memory_is_unknown(bench):
    figures, _ = measure_large(bench, four_bits=(False,))
    assert figures["peak_memory_gib_7b_16"].spread is None
    assert "no GPU" in figures["peak_memory_gib_7b_16"].reason
    assert figures["population_decode_ratio_7b_16"].spread.median > 0


def test_a_large_base_that_does_not_fit_is_a_figure_without_a_number(bench, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine_large, "random_base", full)
    figures, _ = measure_large(bench, four_bits=(False,))
    assert {key: figure.reason for key, figure in figures.items()} == {
        "peak_memory_gib_7b_16": "out of memory"
    }


def test_4_bits_without_bitsandbytes_say_so(bench, monkeypatch):
    monkeypatch.setattr(engine_large, "imported", lambda name: None)
    figures, _ = measure_large(bench, four_bits=(True,))
    assert figures["peak_memory_gib_7b_16_4bit"].reason == "bitsandbytes not installed"


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
def test_a_large_base_in_4_bits_is_the_same_one_to_4_bits(bench):
    whole, packed = (
        random_base(large_config(), torch.float32, torch.device("cpu"), bits)
        for bits in (False, True)
    )
    kinds = [type(module).__name__ for module in packed.model.modules()]
    assert kinds.count("Linear4bit") == 14
    q_proj = packed.model.model.layers[0].self_attn.q_proj
    assert q_proj.weight.numel() == 64 * 64 // 2
    ids = torch.randint(0, 128, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = whole.model(ids).logits, packed.model(ids).logits
    assert 0 < ((first - second).norm() / first.norm()).item() < 0.3
    figures, _ = measure_large(bench, peak=lambda: 1.0, four_bits=(True,))
    assert figures["peak_memory_gib_7b_16_4bit"].spread.median == 1.0


def test_findings_keep_the_order_and_the_reasons():
    findings = Findings(rounds={"a": (2.0, 6.0), "b": (1.0, 2.0)})
    findings.ratio("a_to_b", "a / b", "a", "b")
    findings.missing("c", "see", "gone")
    assert findings.figures == [
        Figure("a_to_b", "a / b", Spread(2.5, 2.25, 2.75)), Figure("c", "see", None, "gone")
    ]  # fmt: skip


def test_a_peer_that_cannot_be_imported_is_left_out_with_a_warning(monkeypatch, tmp_path):
    (tmp_path / "half_installed_peer.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="half_installed_peer is left out: it cannot be imported"):
        assert engine_peers.imported("half_installed_peer") is None
    assert engine_peers.imported("a_package_that_is_not_there") is None
