"""``populora play``: watch an episode, or play in it.

Adapters, the bare base model, random agents and people at the keyboard solve a problem and judge
each other, and the episode is shown as it happens; in self-play one of them writes the problem.
While a person plays, what the others wrote is held back to the end: a judge is shown attempts
without their authors, and nothing else.

Not covered here: many episodes for a measurement (`agents.measuring.evaluate`), and playing over a
network.
"""

import io
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from agents.rollout import rollout
from evolution.commands.play.players import policy_of, read_players
from evolution.commands.play.watching import WatchedArena
from evolution.commands.usage import parse, writing_to
from evolution.errors import UsageError
from evolution.terminal import PlainConsole
from populora_env.problems import load_problems
from populora_env.proposals.source import SelfPlaySource
from populora_env.reading.answers import canonical_answer
from populora_env.reading.forms import FORMS
from populora_env.reading.numerals import parse_number
from populora_env.records import AnswerKind, Phase, Problem
from populora_env.settings import OneOf, Range
from populora_env.storage import storable

# As agents.loading.linear.DTYPE_NAMES, which needs torch.
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """Watch an episode as text, or play in it."""

    agents: str = "base*3"
    """Who plays, separated by commas: base, human, random, a PEFT adapter folder, a run folder
    (its best adapter) or RUN:agent_0 (of its latest generation); NAME*3 plays three times."""
    problems: str = "procedural:chain_sum(max_terms=2,max_digits=1)+products(max_digits=1)"
    """Problem spec; see load_problems."""
    split: Literal["test", "train", "all"] = "test"
    """Half of all problems to draw from; test is the half that evolve never trains on. Nobody
    proposes that half alone: in self-play, test is all."""
    prompt: str = ""
    """A problem of your own, instead of one from the spec."""
    answer: str = ""
    """The known answer of your own problem; without it, the majority is right."""
    answer_kind: AnswerKind | None = None
    """How answers to your own problem are read; by default as text if the known one is no number,
    else as numbers."""
    evaluation: str = "compare"
    """How attempts are judged: score, compare, critique, several joined by +, or none."""
    revise: bool = False
    """Whether agents answer again after reading the critiques of their attempt."""
    proposers: int | str = 0
    """Agents, from the first on, that write the problems for the others in self-play; or all."""
    solvers: Annotated[int | None, Range(1)] = None
    """Agents that solve a proposal; default all there are."""
    tries: Annotated[int, Range(1)] = 1
    """How often each agent answers a problem; of a proposal, each of its solvers. The last try is
    what is judged."""
    judge_load: Annotated[int, Range(1)] = 1
    """Attempts (for compare: pairs) that each agent judges in each form of evaluation."""
    rewards: str = "default"
    """Name of a preset of reward weights."""
    seed: int = 0
    """Seed of problems, matchmaking and replies."""
    episodes: Annotated[int, Range(1)] = 1
    """Episodes to play, each with another problem."""
    model: str = "embedded"
    """Base model: embedded, a hub id, a folder, or a .gguf file; loaded only if it plays."""
    dtype: Annotated[str, OneOf(_DTYPES)] = "float32"
    """float32, bfloat16 or float16."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    temperature: Annotated[float, Range(0)] = 0.8
    """Sampling temperature of the model; 0 is greedy."""
    solve_tokens: Annotated[int, Range(1)] = 128
    """Length limit of the model's attempts and revisions, in tokens."""
    propose_tokens: Annotated[int, Range(1)] = 128
    """Length limit of its proposals, in tokens."""
    judge_tokens: Annotated[int, Range(1)] = 16
    """Length limit of its scores and comparisons, in tokens."""
    critique_tokens: Annotated[int, Range(1)] = 96
    """Length limit of its critiques, in tokens."""
    transcript: str = ""
    """File to append every episode to, as a line of JSON."""

    def check(self) -> None:
        """Check what nobody else checks, or only too late.

        Raises:
            UsageError: On the first value that cannot be used.
        """
        if self.rewards == "external_judge":
            raise UsageError("rewards: external_judge needs a judge, which takes Python to make")
        for name in ("answer", "answer_kind"):
            if getattr(self, name) and not self.prompt:
                raise UsageError(f"{name}: got one without a prompt; say --prompt TEXT as well")


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(PlayOptions, arguments, prog="populora play")
    options.check()
    for stream in (sys.stdin, sys.stdout):
        # A byte that cannot be read or shown must not end the episode.
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "replace":
            stream.reconfigure(errors="replace")
    players = {f"agent_{i}": player for i, player in enumerate(read_players(options.agents))}
    source, problems = _problems(options)
    console = PlainConsole(soft_wrap=True)
    with ExitStack() as stack:
        try:
            arena = WatchedArena(source, problems, players, options, console)
        except ValueError as error:
            raise UsageError(str(error)) from error
        stack.callback(arena.close)
        if isinstance(source, SelfPlaySource):
            stack.callback(source.close)
        file = None
        if options.transcript:
            with writing_to("transcript", options.transcript):
                file = stack.enter_context(
                    Path(options.transcript).expanduser().open("a", encoding="utf-8")
                )
        policy = policy_of(players, options, console)
        limits = dict.fromkeys(Phase, options.judge_tokens) | {
            Phase.PROPOSE: options.propose_tokens,
            Phase.SOLVE: options.solve_tokens,
            Phase.REVISE: options.solve_tokens,
            **{phase: options.critique_tokens for phase, form in FORMS.items() if form.written},
        }
        for number, problem in enumerate(problems):
            key = ("play", options.seed, number)
            (transcript,) = rollout(policy, [arena], [problem], key=key, limits=limits)
            if file is not None:
                names = {agent: storable(player.name) for agent, player in players.items()}
                row = {"players": names, **transcript.to_dict()}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
    return 0


def _problems(options: PlayOptions) -> tuple[SelfPlaySource | None, list[Problem]]:
    """Return a problem for each episode; in self-play a request, and where they come from."""
    if not options.prompt:
        proposed = options.problems.strip().startswith("self-play:")
        everything = options.split == "all" or (proposed and options.split == "test")
        split = None if everything else options.split
        source = load_problems(options.problems, split=split, seed=options.seed)
        if isinstance(source, SelfPlaySource):  # in turn, so that proposers take turns
            return source, [source[number] for number in range(options.episodes)]
        return None, source.distinct(options.episodes)
    answer = storable(options.answer) or None
    is_number = answer is None or parse_number(answer) is not None
    kind = options.answer_kind or (AnswerKind.NUMBER if is_number else AnswerKind.TEXT)
    if answer is not None and canonical_answer(answer, kind) is None:
        raise UsageError(f"answer: got {answer!r}, expected one of kind {kind}; see --answer-kind")
    problem = Problem.create(storable(options.prompt), answer, kind, "typed")
    return None, [problem] * options.episodes
