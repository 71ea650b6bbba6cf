"""The model card of adapters: README.md, with a YAML header as hubs read it.

It says what the run's files say, and leaves out with a sentence what they do not. Written without a
network.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from agents.loading.files import EMBEDDED, EMBEDDED_HUB_ID
from agents.measuring.statistics import Estimate
from evolution.commands.usage import installed
from evolution.individuals.lineage import AVERAGE, CHAMPION, Individual
from evolution.reporting.measures.measured import BASE, held_out_marks
from evolution.runs.saved_run import SavedRun
from populora_env.problems.benchmarks import BENCHMARKS

CARD_FILE, SETTINGS_FILE = "README.md", "settings.toml"
NOT_HERE = "-"
"""As a folder: of an adapter that went into another one, and does not lie beside the card."""
_OF_THE_PLACE = frozenset(
    {"adapter_folder", "log", "max_minutes", "out", "server", "served_model"}
)  # settings that say where a run was played, not how
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_MOST_ANCESTORS = 12


@dataclass(frozen=True, slots=True)
class Carded:
    """An adapter that a card tells of.

    Attributes:
        what: What it is, in words.
        folder: Where it lies below the card; empty for beside it, or `NOT_HERE`.
        measured_as: What the run's held-out figures call it; empty if they have none of it.
        individuals: Whom it is of, several of an average; empty names are of nobody known.
    """

    what: str
    folder: str = ""
    measured_as: str = ""
    individuals: tuple[str, ...] = ()


def card_text(
    name: str,
    adapters: Sequence[Carded],
    *,
    run: SavedRun | None,
    base: str = "",
    made: Sequence[str] = (),
    license_id: str = "",
) -> str:
    """The whole card.

    Args:
        name: What the adapters are called, and loaded by: a hub id or a folder.
        adapters: At least one; the first is what the card shows how to load.
        run: Where they are from; None if that is not known.
        base: What the adapters call their base, where there is no run.
        made: How they were made from members of the run, a line each.
        license_id: As hubs call it; empty names none.
    """
    model = base_name(base if run is None else run.config.model)
    parts = [f"# {name}", _about(adapters, run, model), *made, _loading(name, model, adapters[0])]
    if run is None:
        parts.append(
            "## Origin\n\nNo run was given, so data, seeds and lineage are not known here."
        )
    else:
        parts += [_accuracy(run, adapters), _data(run), _lineage(run, adapters), _limits(run),
                  _reproducing(run)]  # fmt: skip
    parts.append(_versions(run))
    return f"---\n{_header(run, model, license_id)}\n---\n\n" + "\n\n".join(parts) + "\n"


def settings_text(run: SavedRun) -> str:
    """The settings that a run began with, for ``populora evolve --config``; no local folders."""
    first = {k: v for k, v in run.first_settings.items() if k not in _OF_THE_PLACE}
    if (model := str(first.get("model", EMBEDDED))) != EMBEDDED:
        first["model"] = base_name(model)
    return tomli_w.dumps(first)


def card_of_champion(run: SavedRun) -> Carded:
    """What a card says of the run's champion; whom it is a snapshot of only if that is recorded.

    The history has whom it was when the last generation was saved; trials at the end of a run may
    have changed that, and are recorded with what was measured then.
    """
    summary = run.summary()
    is_of_now = summary.get("generations") == run.generation + 1
    measured = (summary.get("held_out") or {}) if is_of_now else {}
    if measured.get("champion_is") == AVERAGE:
        living = tuple(individual_of(run, agent) for agent in run.solvers)
        return Carded("the champion, the average of the agents", "", CHAMPION, living)
    whose = str(measured.get("champion", ""))
    named = f"the champion, {whose}" if whose else "the champion"
    return Carded(named, "", CHAMPION, (whose,))


def individual_of(run: SavedRun, agent: str) -> str:
    """The individual that an agent is in the last generation; empty if not recorded."""
    return str(run.last_rows.get(agent, {}).get("individual", ""))


def base_name(model: str) -> str:
    """A base as others can find it: its hub id, or the last part of a local path."""
    if model == EMBEDDED:
        return EMBEDDED_HUB_ID
    return model if is_hub_id(model) else Path(model).name


def is_hub_id(model: str) -> bool:
    """Whether a base is one that a hub has, as far as its name tells."""
    return bool(_HUB_ID.fullmatch(model)) and not Path(model).exists()


def _header(run: SavedRun | None, model: str, license_id: str) -> str:
    from huggingface_hub import ModelCardData

    tags = ["lora", "peft", "populora", "evolution"]
    data_sets: list[str] = []
    if run is not None:
        if run.config.proposers:
            tags.append("self-play")
        words = set(re.findall(r"[\w-]+", run.config.problems))
        data_sets = [b.data_set for name, b in BENCHMARKS.items() if name in words]
    return ModelCardData(
        base_model=model if _HUB_ID.fullmatch(model) else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=tags,
        datasets=data_sets or None,
        license=license_id or None,
    ).to_yaml()


def _about(adapters: Sequence[Carded], run: SavedRun | None, model: str) -> str:
    lines = [f"LoRA adapters for `{model or 'a base that is not named'}`, in PEFT's format:\n"]
    for entry in adapters:
        place = f", in `{entry.folder}`" if entry.folder else ""
        lines.append(
            f"- {entry.what}{', which went into it' if entry.folder == NOT_HERE else place}"
        )
    if run is not None:
        config = run.config
        lines.append(
            f"\nThey come from a population of {config.size} adapters of rank {config.rank} that "
            f"was evolved for {run.generation + 1} generations with PopuLoRA."
        )
    return "\n".join(lines)


def _loading(name: str, model: str, first: Carded) -> str:
    below = f', subfolder="{first.folder}"' if first.folder else ""
    unknown = "" if model else "The adapters name no base: put yours for BASE.\n\n"
    model = model or "BASE"
    return f"""## Loading it

{unknown}```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("{model}")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{model}"), "{name}"{below})
```"""


def _accuracy(run: SavedRun, adapters: Sequence[Carded]) -> str:
    head = "## Accuracy\n\n"
    config = run.config
    summary = run.summary()
    found = summary.get("held_out")
    if not found:
        return f"{head}The run has no figures on held-out problems, so there are none here."
    if summary.get("generations") != run.generation + 1:
        return (
            f"{head}The run's figures on held-out problems are of {summary.get('generations')} "
            f"generations, the adapters of {run.generation + 1}; so they are left out."
        )
    marks = held_out_marks(run, int(found["problems"]))
    shown = [(BASE, f"base, `{base_name(config.model)}`")]
    shown += [(entry.measured_as, entry.what) for entry in adapters]
    rows = [
        f"| {what} | {estimate.value:.3f} | {estimate.error_text() or 'not known'} |"
        for who, what in shown
        if who in marks and (estimate := Estimate.of(marks[who].tolist()))
    ]
    if not rows:
        return f"{head}The replies to the held-out problems were not kept, so there is no table."
    missing = [what for who, what in shown if who not in marks]
    left_out = f"\n\nNot measured: {'; '.join(missing)}." if missing else ""
    spec = config.held_out_from or config.problems
    return (
        f"{head}Share right of {found['problems']} held-out problems of `{spec}`, greedy, at most "
        f"{config.solve_tokens} tokens a reply; never trained on. Standard errors are over "
        "problems, of this one run.\n\n| who | accuracy | standard error |\n| --- | --- | --- |\n"
        + "\n".join(rows)
        + left_out
    )


def _data(run: SavedRun) -> str:
    config = run.config
    said = "## Data and training\n\n"
    said += f"Problems: `{config.problems}`, training split; seed {config.seed}."
    if config.proposers:
        said += " Agents wrote problems for each other (self-play)."
    return said + (
        f" {config.problems_per_generation} problems a generation. Rewards: `{config.rewards}`; "
        f"learner: `{config.learner}`; crossover: `{config.crossover}`; exchange: "
        f"`{config.exchange}`; guard: `{config.guard}`."
    )


def _lineage(run: SavedRun, adapters: Sequence[Carded]) -> str:
    head = "## Lineage\n\n"
    born = {one.name: one for one in run.lineage(run.generation, run.config.size)}
    known = [n for n in dict.fromkeys(n for a in adapters for n in a.individuals) if n in born]
    if not known:
        return f"{head}The run has no record of births for these adapters."
    lines: list[str] = []
    met, ahead = set[str](), list(known)
    while ahead and len(lines) < _MOST_ANCESTORS:
        one = born[ahead.pop(0)]
        if one.name not in met:
            met.add(one.name)
            lines.append(_birth(one))
            ahead += [parent for parent in one.parents if parent in born]
    more = "\n- … and their ancestors, in the run's `lineage.json`" if set(ahead) - met else ""
    return head + "\n".join(lines) + more


def _birth(one: Individual) -> str:
    parents = f" of {', '.join(one.parents)}" if one.parents else ""
    return f"- {one.name}: `{one.operator}`{parents}, born in generation {one.generation}"


def _limits(run: SavedRun) -> str:
    return f"""## Limits

- One run of one seed: another seed ends elsewhere. The errors above do not say how far.
- Learned from the problems named above alone; nothing here says what that did to other tasks.
- Made for replies of at most {run.config.solve_tokens} tokens under the base's chat template.
- The champion was chosen on training problems; the best row of a table is chosen by luck, too."""


def _reproducing(run: SavedRun) -> str:
    said = f"""## Reproducing it

```
populora evolve --config {SETTINGS_FILE}
```

`{SETTINGS_FILE}` has the settings that the run began with, its seed among them."""
    if not is_hub_id(model := run.config.model) and model != EMBEDDED:
        said += f" The base was a local folder or file called `{base_name(model)}`."
    rows = [
        f"| {c.generation + 1} | `{c.option}` | `{c.before}` | `{c.after}` |"
        for c in run.changes(run.generation)
        if c.option not in _OF_THE_PLACE
    ]
    if rows:
        table = "| from generation | setting | before | after |\n| --- | --- | --- | --- |\n"
        said += "\n\nSettings changed while the run went on:\n\n" + table + "\n".join(rows)
    return said


def _versions(run: SavedRun | None) -> str:
    known: Mapping[str, Any] = {} if run is None else run.tables["versions"]
    if not known:
        return f"## Versions\n\nWritten by populora-env {installed('populora-env')}."
    return "## Versions\n\n" + ", ".join(f"{name} {version}" for name, version in known.items())
