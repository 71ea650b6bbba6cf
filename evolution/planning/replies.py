"""How many replies a run asks for, by its settings alone.

What cannot be known before is given as a range: trials measure whoever is in question, and only
valid proposals are solved.
"""

from collections import Counter
from dataclasses import dataclass

from evolution.config import EvolutionConfig, RunConfig
from evolution.exchange.gate import GATES
from evolution.exchange.mixing import cma_es
from evolution.exchange.step import EXCHANGES
from evolution.individuals.progress import PROBLEMS
from populora_env.episodes.arguments import read_rules
from populora_env.episodes.rewards import RewardWeights
from populora_env.episodes.roles import read_roles
from populora_env.grading import Grader
from populora_env.records import Phase


def most_readers(config: RunConfig) -> int:
    """How many agents learn from one reply, at most."""
    return max(map(len, config.readers(config.size).values()))


def generation_replies(
    config: EvolutionConfig, size: int, *, problems: int | None = None, valid: float = 1.0
) -> dict[Phase, int]:
    """Replies of one generation's episodes, by phase.

    Args:
        config: Settings of the run.
        size: Agents.
        problems: Episodes; None for as many as the settings ask for. A source may hold fewer.
        valid: Share of the proposals that are, in self-play.
    """
    episodes = config.problems_per_generation if problems is None else problems
    judged = min(config.judged_problems, episodes)
    agents = [f"agent_{i}" for i in range(size)]
    roles = read_roles(agents, config.proposers, config.solvers, config.tries)
    playing = size if roles is None else roles.matched
    with Grader() as grader:
        rules = read_rules(
            agents, playing, evaluation=config.evaluation, judge=None,
            judge_load=config.judge_load, revise=config.revise, matchmaking=config.matchmaking,
            self_judging=False, rewards=config.rewards, judge_timeout=None, grader=grader,
            max_reply_chars=1,
        )  # fmt: skip
    found: Counter[Phase] = Counter()
    if roles is not None:
        found[Phase.PROPOSE] = episodes
        episodes, judged = round(valid * episodes), round(valid * judged)
    found[Phase.SOLVE] = episodes * config.tries * playing
    for phase, _ in rules.schedule():
        found[phase] += judged * playing
    return {phase: count for phase, count in found.items() if count}


@dataclass(frozen=True, slots=True)
class Measurements:
    """Greedy replies of a run beside its episodes; fewest and most where it is not known.

    Attributes:
        trials: Of would-be elites and champions, of exchanges, and of a gate.
        progress: Of solvers, where proposers are paid for it.
        curve: On held-out problems while the run goes on.
        table: On held-out problems at the end.
        guard: On the guard's anchors; how often it is alarmed is not known.
    """

    trials: tuple[int, int]
    progress: int
    curve: int
    table: tuple[int, int]
    guard: tuple[int, int] = (0, 0)

    @property
    def total(self) -> tuple[int, int]:
        """Of the run, fewest and most."""
        known = self.progress + self.curve
        ranges = (self.trials, self.table, self.guard)
        return known + sum(low for low, _ in ranges), known + sum(high for _, high in ranges)


def measurements(config: RunConfig, first: int = 0, held_out: int | None = None) -> Measurements:
    """Replies of a run beside its episodes.

    Args:
        config: Its settings.
        first: Generations that have been played already.
        held_out: Problems for the table; None for as many as the settings ask for.
    """
    size, last = config.size, config.generations
    solvers = size - config.only_propose
    table = config.held_out if held_out is None else held_out
    played = range(first, last)
    settings = config.resolved(size)
    every = settings.confirm_every
    # The first trial finds nobody proven, and measures nothing.
    held = sum(g % every == 0 for g in played if g) + bool(played)
    held = max(held - (first < every), 0)
    homes = 1 if config.proposers and config.proposers != "all" else config.islands
    most = min(2 * config.elites * homes, solvers) + 2  # the champion and its rival
    exchanges = sum(g % settings.evolve_every == 0 for g in played if g)
    asked = exchanges * homes * _of_exchange(config, solvers // homes)
    gate = GATES.read_one(config.gate)
    tests = 0
    if gate is not None:  # of the champion, and of those that take an elite's place
        tests = 2 * gate().most * (held + exchanges * config.elites * homes)
    paid = RewardWeights.preset(config.rewards).progress and bool(config.proposers)
    chosen = _last_trial(config, solvers) if played and gate is None else (0, 0)
    average = solvers > 1
    curve = 0
    if table and config.held_out_every:
        times = sum((g + 1) % config.held_out_every == 0 for g in played)
        fresh = times and first < config.held_out_every  # then the base is measured, too
        curve = table * (solvers * times + bool(fresh))
    return Measurements(
        (asked + chosen[0], asked + held * most * settings.confirm_problems + tests + chosen[1]),
        PROBLEMS * solvers * len(played) if paid else 0,
        curve,
        (table * (solvers + average + 1), table * (solvers + average + 2)),
        _guarded(config, played, solvers),
    )


def _of_exchange(config: RunConfig, members: int) -> int:
    """Replies that one exchange among so many members asks for."""
    use = EXCHANGES.read_one(config.exchange)
    if use is None or use.name != "cma_es" or members < 2:
        return 0
    known = {**(cma_es.__kwdefaults__ or {}), **use.parameters}
    return known["problems"] * known["rounds"] * max(members, 4)


def _last_trial(config: RunConfig, solvers: int) -> tuple[int, int]:
    """Replies at the end, of those who solve, their average and the champion."""
    count = config.last_trial if solvers > 1 else 0
    if EXCHANGES.is_central(config.exchange):  # of the latter two, which may be one
        return 0, 2 * count
    return (solvers + 1) * count, (solvers + 2) * count  # the champion may be one of the first


def _guarded(config: RunConfig, played: range, solvers: int) -> tuple[int, int]:
    """Replies on anchors: where nobody is ever flagged, and where everybody always is."""
    if config.guard == "off" or not played:
        return 0, 0
    checks = sum((g + 1) % config.guard_every == 0 for g in played)
    begin = (1 + solvers) * (not played[0])  # the base, and agents before they learn
    low, high = checks * solvers + begin, len(played) * solvers + begin
    return config.guard_anchors * low, config.guard_anchors * high
