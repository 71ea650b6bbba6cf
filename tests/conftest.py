"""One thread, no global randomness, and a tiny random Llama made afresh; nothing is downloaded."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A tiny model's matrices are over before a second thread has woken: threads that spin between
# them only take the machine from whatever runs beside the tests. OpenMP reads these when torch is
# imported, and the commands that the tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Trackio reads where its databases are when it is imported, whichever test does that first.
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")

import numpy as np
import pytest

with contextlib.suppress(ImportError):  # the core's tests do without it
    import rich.style  # noqa: F401  (it draws once, when it is imported)

atexit.register(shutil.rmtree, os.environ["TRACKIO_DIR"], ignore_errors=True)


def pytest_terminal_summary(terminalreporter, config):
    """Say how a run that failed is repeated; `-q` hides the header, in which the plugin says it."""
    failed = any(terminalreporter.stats.get(kind) for kind in ("failed", "error"))
    if failed and (seed := getattr(config.option, "random_order_seed", None)):
        terminalreporter.write_line(f"The same order again: --random-order-seed={seed}")


def global_random_states() -> dict[str, bytes]:
    """What the generators that the whole process shares would draw next, by their owner."""
    key, position = np.random.get_state()[1:3]  # noqa: NPY002
    states = {
        "random": repr(random.getstate()).encode(),
        "numpy.random": key.tobytes() + str(position).encode(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy().tobytes()
    return states


def torch_at_first():
    """The state that torch's own generator had when it was imported."""
    torch = sys.modules["torch"]
    return torch.Generator().manual_seed(torch.initial_seed()).get_state()


def drawn_from(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """The shared generators that moved; torch's is at its beginning when a test imports it."""
    if "torch" in after and "torch" not in before:
        before = {**before, "torch": torch_at_first().numpy().tobytes()}
    return [name for name, state in after.items() if state != before[name]]


def memory_peak() -> int:
    """The most bytes that this process ever held.

    Not `ru_maxrss`: that begins with what the process held that started this one.
    """
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def forget_memory_peak() -> int:
    """Let the peak begin anew, with the bytes held now; return them."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return memory_peak()


@pytest.fixture(scope="session", autouse=True)
def tyro_draws_nothing():
    """Under pytest, and only there, tyro draws whether to check its cache."""
    try:
        import tyro
    except ImportError:  # the core's tests do without it
        return (yield)
    reads = tyro.cli

    def cli(*args, **kwargs):
        before = random.getstate()
        try:
            return reads(*args, **kwargs)
        finally:
            random.setstate(before)

    tyro.cli = cli
    yield
    tyro.cli = reads


@pytest.fixture(autouse=True)
def no_global_randomness(tyro_draws_nothing):
    """Fail a test that draws from a shared generator: it would hang on the tests before it."""
    before = global_random_states()
    yield
    if drawn := drawn_from(before, global_random_states()):
        pytest.fail(
            f"the test moved the global generator of {', '.join(drawn)}: draw from a generator"
            " with a seed, or fork and restore the state around a library that draws",
            pytrace=False,
        )


@pytest.fixture
def shared_generators():
    """The shared generators, seeded for a library that draws from them, and put back after."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch = sys.modules.get("torch")  # the core's tests do without it
    with contextlib.nullcontext() if torch is None else torch.random.fork_rng():
        if torch is not None:
            torch.manual_seed(7)
        yield
    if torch is None and "torch" in sys.modules:  # the test imported it: back to its beginning
        torch = sys.modules["torch"]
        torch.set_rng_state(torch_at_first())
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002


def make_tiny_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<user>", "<agent>", "<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}<agent>"
    return fast


def make_tiny_base(products="float32", **overrides):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from agents.loading.models import freeze

    fast = make_tiny_tokenizer()
    settings = dict(
        vocab_size=len(fast), hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        eos_token_id=fast.eos_token_id, bos_token_id=None, pad_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **overrides}))
    return freeze(model, fast, name="tiny", products=products)


def save_base(base, folder):
    """A base made in memory as a folder that a user may name."""
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tiny_base():
    return make_tiny_base()


@pytest.fixture(scope="session")
def smollm():
    """The embedded model, loaded once; its user detaches what it attaches."""
    from agents.loading.models import load_base

    return load_base("embedded")
