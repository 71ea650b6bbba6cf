"""Replies that were found right, for ``populora distill``: from a run's transcripts, or fresh."""

from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agents.loading.models import BaseModel
from agents.policy import Request
from agents.population import LoraPopulation
from agents.progress import Progress
from evolution.runs.files import TRANSCRIPTS_FILE
from evolution.runs.saved_run import SavedRun
from populora_env.grading import Grader
from populora_env.keys import derive_seed, generator
from populora_env.problems.files.columns import prompt_key
from populora_env.prompts import solve_prompt
from populora_env.records import Phase, Problem, Turn


@dataclass(frozen=True, slots=True)
class Verified:
    """A reply whose answer is known to be right.

    Attributes:
        problem: Id of the problem.
        text: The reply.
        prompt_ids: Token ids of the prompt.
        reply_ids: Token ids of the reply, with the token that ended it, if one did.
    """

    problem: str
    text: str
    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]


def from_transcripts(
    run: SavedRun, base: BaseModel, held_out: Collection[Problem]
) -> list[Verified]:
    """Return all attempts of a run that were graded correct, each as often as it was made.

    A transcript has no tokens: texts are tokenised again. An attempt as long as the run's limit was
    cut off there and gets no end token.

    Args:
        run: The run; transcripts of generations after its last whole one are left out.
        base: Its base, for the tokenizer.
        held_out: Problems never to learn from.

    Raises:
        UsageError: If the transcripts cannot be read.
    """
    forbidden = {prompt_key(problem.prompt) for problem in held_out}
    end = [] if base.reply_end is None else [base.reply_end]
    prompts: dict[str, tuple[int, ...]] = {}
    found: list[Verified] = []
    limits: dict[int, int] = {}  # of a reply, by generation
    for line, generation, transcript in run.episodes():
        if generation > run.generation or prompt_key(transcript.problem.prompt) in forbidden:
            continue
        if generation not in limits:
            limits[generation] = run.settings(generation).solve_tokens
        with run.reading(run.path / TRANSCRIPTS_FILE, line):
            # Where agents answer several times, their attempts and turns are in the same order.
            turns: dict[str, deque[Turn]] = defaultdict(deque)
            for turn in transcript.turns:
                if turn.phase is Phase.SOLVE:
                    turns[turn.agent].append(turn)
            for attempt in transcript.attempts:
                turn = turns[attempt.agent].popleft()
                if not attempt.correct:
                    continue
                prompt, reply = turn.prompt, turn.reply
                if prompt not in prompts:
                    prompts[prompt] = tuple(base.chat_ids(prompt))
                ids = base.tokenizer(reply, add_special_tokens=False)["input_ids"]
                if len(ids) < limits[generation]:
                    ids = [*ids, *end]
                found.append(Verified(transcript.problem.id, reply, prompts[prompt], tuple(ids)))
    return found


def sampled(
    population: LoraPopulation,
    agents: Sequence[str],
    problems: Sequence[Problem],
    grader: Grader,
    *,
    count: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    progress: Progress | None = None,
) -> list[Verified]:
    """Sample replies of all agents to problems and return the right ones.

    Args:
        population: Answers.
        agents: Who of it is asked.
        problems: What is asked; to learn from, so none that is held out.
        grader: Says what is right.
        count: Replies of each agent to each problem.
        max_new_tokens: Length limit.
        temperature: Of the sampling.
        seed: Of all draws.
        progress: Called with ``sampling`` and the fraction of the problems done.
    """
    found: list[Verified] = []
    each = max(1, population.max_rows // (count * len(agents)))
    for start in range(0, len(problems), each):
        part = problems[start : start + each]
        asked = [
            (problem, Request(agent, Phase.SOLVE, solve_prompt(problem), max_new_tokens,
                              derive_seed("distill", seed, problem.id, agent, i)))
            for problem in part
            for agent in agents
            for i in range(count)
        ]  # fmt: skip
        replies = population.generate([request for _, request in asked], temperature=temperature)
        population.forget()
        texts = [(problem, reply.text) for (problem, _), reply in zip(asked, replies, strict=True)]
        for (problem, text), reply, grade in zip(
            texts, replies, grader.grade_many(texts), strict=True
        ):
            if grade.correct:
                found.append(Verified(problem.id, text, reply.prompt_ids, reply.reply_ids))
        if progress is not None:
            progress("sampling", (start + len(part)) / len(problems))
    return found


def choose(replies: Sequence[Verified], limit: int, seed: int) -> list[Verified]:
    """Return at most so many different replies to each problem, drawn at random.

    Args:
        replies: What to choose from; two are the same if their texts are, outer space aside.
        limit: Most of one problem, at least 1, so that easy problems do not drown the others.
        seed: Of the draw.
    """
    by_problem: dict[str, dict[str, Verified]] = {}
    for reply in replies:
        by_problem.setdefault(reply.problem, {}).setdefault(reply.text.strip(), reply)
    chosen: list[Verified] = []
    for problem, texts in by_problem.items():
        known = list(texts.values())
        order = generator("distill choice", seed, problem).permutation(len(known))[:limit]
        chosen += [known[i] for i in sorted(order.tolist())]
    return chosen
