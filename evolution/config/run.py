"""Settings of a whole run: evolution's, and the model, the problems, and where it goes."""

from dataclasses import dataclass
from typing import Annotated

from agents.loading.linear import DTYPE_NAMES, MatmulPrecision
from evolution.config.checks import ENGINES, check_log, check_server
from evolution.config.evolving import EvolutionConfig
from populora_env.settings import OneOf, Range


@dataclass(frozen=True, kw_only=True)
class RunConfig(EvolutionConfig):
    """A whole run: model, problems, population, generations, and where it goes."""

    model: str = "embedded"
    """Base model: embedded, a hub id, a local folder, or a .gguf file."""
    dtype: Annotated[str, OneOf(DTYPE_NAMES)] = "float32"
    """Type of the base's weights: float32, bfloat16 or float16."""
    products: MatmulPrecision = MatmulPrecision.FLOAT32
    """Precision of a float32 base's products on a CPU; auto is the fastest that this
    machine has."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    size: Annotated[int, Range(1, 10_000)] = 8
    """Agents in the population."""
    load_in_4bit: bool = False
    """Whether the base's linear layers are kept in 4 bits (NF4); needs bitsandbytes, accelerate."""
    rank: Annotated[int, Range(1)] = 8
    """Rank of every adapter."""
    alpha: Annotated[float | None, Range(0, 1e6, above=True)] = None
    """Numerator of the adapters' scale alpha / rank; default twice the rank."""
    targets: str = "all-linear"
    """Layers with adapters: all-linear, or module paths or their last parts joined by +, as in
    q_proj+v_proj."""
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.0
    """Share of an adapter's inputs that is dropped while it learns; below 1."""
    adapter_dtype: Annotated[str | None, OneOf(DTYPE_NAMES)] = None
    """Type of the adapters' weights: float32, bfloat16 or float16; default the base's."""
    gradient_checkpointing: bool = False
    """Whether the learner computes activations again instead of keeping them; slower, smaller."""
    top_p: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Share of the probability from which the tokens of training replies are drawn."""
    max_rows: Annotated[int, Range(1)] = 96
    """Rows decoded at once; of a server, requests under way."""
    engine: Annotated[str, OneOf(ENGINES)] = "local"
    """What generates: local, or vllm, a server that loads adapters while it runs."""
    server: str = ""
    """Address of the vLLM server, such as http://localhost:8000."""
    adapter_folder: str = ""
    """Where adapters are written for it: a folder that it sees under the same path."""
    served_model: str = ""
    """The base's name on the server; by default found by what the server loaded it from."""
    server_adapters: Annotated[int | None, Range(1)] = None
    """Adapters that may be loaded there at once; default as many as it takes."""
    server_timeout: Annotated[float, Range(0, 86400, above=True)] = 600.0
    """Seconds within which it answers a request, all tries included."""
    problems: str = "procedural:chain_sum(max_terms=2,max_digits=1)+products(max_digits=1)"
    """Problem spec; see load_problems."""
    held_out_from: str = ""
    """Spec of the held-out problems; default: problems. Self-play needs one, if held_out > 0."""
    held_out: Annotated[int, Range(0)] = 128
    """Problems, never trained on, for the table at the end; 0 for no table."""
    held_out_every: Annotated[int, Range(0)] = 0
    """Generations from one measurement on them to the next, for the report; 0 for only the last."""
    generations: Annotated[int, Range(1)] = 20
    """Generations in total."""
    max_minutes: Annotated[float, Range(0, finite=False)] = 0.0
    """Start no generation after this many minutes of a call; 0 for no limit."""
    log: str = "tensorboard"
    """Who is told of generations beside the console: tensorboard, trackio, wandb, joined by +; none
    for nobody."""
    out: str = ""
    """Run folder; by default runs/<date>-<time>."""

    def check(self) -> None:
        """Check every field, and what the population's size asks of them.

        Raises:
            ConfigError: On the first value out of range.
        """
        super().check()
        check_server(self)
        check_log(self)
        self.resolved(self.size)
