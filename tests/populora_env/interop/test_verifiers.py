"""Problems to and from verifiers, with the real package where it is installed."""

from __future__ import annotations

import asyncio

import pytest

from populora_env import Problem, ReasoningArena, load_problems

vf = pytest.importorskip("verifiers.v1")

from populora_env.interop.verifiers import ProblemTaskset, problems_of  # noqa: E402

SPEC = "procedural:chain_sum(max_terms=2,max_digits=1)"


def said(task, text):
    """A finished trace of a task in which a model said this."""
    from verifiers.v1.graph import MessageNode

    message = vf.AssistantMessage(content=text)
    trace = vf.Trace.model_construct(
        nodes=[MessageNode.model_construct(message=message, sampled=True)], root_reply=None,
        rewards={}, metrics={}, task=None,
    )  # fmt: skip
    asyncio.run(task.score(trace))
    return {name: reward.value for name, reward in trace.rewards.items()}


def test_problems_are_tasks_that_our_grader_rewards():
    problems = load_problems(SPEC, seed=3).distinct(3)
    taskset = ProblemTaskset(problems)
    tasks = list(taskset)
    assert [task.data.idx for task in tasks] == [0, 1, 2]
    assert [task.key for task in tasks] == [problem.id for problem in problems]
    assert said(tasks[0], f"So the answer is {problems[0].answer}.") == {"correct": 1.0}
    assert said(tasks[0], "I give up.") == {"correct": 0.0}
    assert said(tasks[0].defer_scoring(), "7") == {}
    assert [task.data.idx for task in taskset.shuffle(seed=1).take(2)] != [0, 1, 2]


def test_there_and_back_they_are_the_same_problems():
    problems = load_problems(SPEC, seed=3).distinct(3)
    assert [p.id for p in problems_of(ProblemTaskset(problems))] == [p.id for p in problems]
    assert len(problems_of(ProblemTaskset(load_problems(SPEC), limit=5), limit=2)) == 2


def test_tasks_of_others_are_played_in_the_arena():
    class Data(vf.TaskData):
        gold: int

    class Task(vf.Task[Data, vf.State, vf.TaskConfig]):
        pass

    tasks = [Task(Data(prompt="What is 3 + 4?", system_prompt="Be brief.", gold=7))]
    (problem,) = problems_of(tasks, answer="gold")
    assert (problem.prompt, problem.answer) == ("Be brief.\n\nWhat is 3 + 4?", "7")
    arena = ReasoningArena([problem], 2, "none")
    arena.reset()
    _, rewards, *_ = arena.step({"agent_0": "It is 7.", "agent_1": "It is 8."})
    assert rewards["agent_0"] > rewards["agent_1"]
    with pytest.raises(ValueError, match=r"has no 'answer', expected one of its entries: gold"):
        problems_of(tasks)


def test_what_has_no_answer_is_no_task():
    with pytest.raises(ValueError, match="number 0 has no known answer"):
        list(ProblemTaskset([Problem.create("Say something.", None)]))
    with pytest.raises(ValueError, match="got none"):
        ProblemTaskset([])
