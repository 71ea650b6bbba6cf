"""The package's extras: what each is for, what its absence costs, which modules it brings.

Read by the command before anything heavy is imported, and by ``populora doctor``.
"""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part of the package.

    Attributes:
        name: As in ``populora-env[name]``.
        modules: Top modules it brings.
        purpose: What it is for.
        cost: What there is not without it.
    """

    name: str
    modules: tuple[str, ...]
    purpose: str
    cost: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'populora-env[{self.name}]'"

    def missing(self) -> list[str]:
        """Those of its modules that are not installed."""
        return [module for module in self.modules if find_spec(module) is None]


EXTRAS = (
    Extra(
        "evolve",
        ("torch", "cmaes", "transformers", "safetensors", "tensorboard", "tomli_w", "xxhash"),
        "a language model as a policy, and the evolution of its adapters",
        "only the arena, play with scripted or human agents, and validate",
    ),
    Extra("gguf", ("gguf",), "base models in GGUF files", "no embedded model, which make run uses"),
    Extra(
        "report", ("plotly", "jinja2"), "a run as one HTML page", "no report; a run goes on without"
    ),
    Extra(
        "watch", ("plotly", "jinja2", "starlette", "uvicorn"), "a page that follows a run",
        "no populora watch",
    ),
    Extra(
        "hub", ("datasets",), "problems from the hub and from Parquet files",
        "problems from JSON lines, CSV and generators only",
    ),
    Extra(
        "http", ("openai",), "policies and judges behind OpenAI-compatible servers",
        "no HttpPolicy, HttpJudge or vLLM engine",
    ),
    Extra(
        "code", ("pydantic_monty",), "functions that agents write, run in a sandbox",
        "no self-play with functions",
    ),
    Extra("ray", ("ray",), "several workers, here or on a cluster", "no evolve --workers"),
    Extra(
        "embeddings", ("sentence_transformers",), "diversity by sentence embeddings",
        "the other measures of diversity only",
    ),
    Extra("trackio", ("trackio",), "runs in Trackio", "no evolve --log trackio"),
    Extra("wandb", ("wandb",), "runs in Weights & Biases", "no evolve --log wandb"),
    Extra("qd", ("ribs",), "MAP-Elites archives", "no fitness map_elites"),
    Extra(
        "4bit", ("bitsandbytes", "accelerate"), "a base model in 4 bits",
        "weights of a 7B base take 14 GB instead of 4",
    ),
    Extra(
        "peers", ("openvino", "openvino_genai", "ctranslate2"),
        "other CPU engines to measure beside", "no bench-engine --only peers",
    ),
    Extra("docs", ("sphinx", "myst_parser", "furo"), "the pages as HTML", "no make docs"),
    Extra(
        "dev", ("pytest", "ruff", "pyright", "peft", "trl"), "work on the package", "no make test"
    ),
)  # fmt: skip
"""All extras but ``all`` and ``lora``, an older name of ``evolve``; what most need is first."""

_BESIDE = {
    "tokenizers": "evolve",
    "huggingface_hub": "evolve",
    "pyarrow": "hub",
}  # what they bring along


def lacks(name: str) -> bool:
    """Whether an extra by this name is not, or not wholly, installed."""
    return any(extra.name == name and extra.missing() for extra in EXTRAS)


def extra_of(module: str) -> Extra | None:
    """The extra that brings a module, given by its dotted name; None if none does."""
    top = module.partition(".")[0]
    name = _BESIDE.get(top)
    return next((extra for extra in EXTRAS if top in extra.modules or extra.name == name), None)
