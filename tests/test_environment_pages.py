"""What the pages of the environments say: arguments, spaces, infos and parts, held to the code."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium
import pettingzoo
import pytest

import populora_env
from populora_env.gym import ReasoningProposer, ReasoningSolo

PAGES = Path(__file__).parents[1] / "docs" / "environments"
GYMNASIUM = {"reasoning_solo": ReasoningSolo, "reasoning_proposer": ReasoningProposer}
KINDS = {"reasoning_arena": populora_env.ReasoningArena, **GYMNASIUM}


def section(page: str, name: str) -> str:
    """A page's text below a heading; an empty name is what stands above the first."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))[name]


def rows(page: str, name: str) -> dict[str, str]:
    """The first two columns of a section's table, without its head; names are taken apart."""
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", section(page, name), re.MULTILINE)
    return {key: cell for names, cell in found for key in re.findall(r"`([^`]+)`", names)}


def stated(cell: str) -> Any:
    """The default that a cell shows: a literal, or the name of a constant."""
    code = cell.strip("`")
    if not code.startswith("populora_env."):
        return ast.literal_eval(code)
    module, _, name = code.rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name)


def defaults(page: str) -> dict[str, Any]:
    signature = inspect.signature(KINDS[page])
    return {name: entry.default for name, entry in signature.parameters.items()}


@pytest.mark.parametrize("page", KINDS)
def test_arguments_have_the_defaults_of_the_code(page):
    told = {name: stated(cell) for name, cell in rows(page, "Arguments").items()}
    known = defaults(page)
    assert {name: known.get(name) for name in told} == told
    above = {"reasoning_arena": [], "reasoning_solo": ["reasoning_arena"]}.get(
        page, ["reasoning_arena", "reasoning_solo"]
    )
    for other in above:  # whose arguments a page does not repeat
        told = {name: stated(cell) for name, cell in rows(other, "Arguments").items()} | told
    assert told == known


@pytest.mark.parametrize("page", GYMNASIUM)
def test_the_head_names_the_spaces_of_a_gymnasium_environment(page):
    env = gymnasium.make(re.findall(r"`(populora/[\w-]+)`", section(page, ""))[0])
    assert isinstance(env.unwrapped, KINDS[page])
    assert f"| action space | `{env.action_space}` |" in section(page, "")
    assert f"| observation space | `{env.observation_space}` |" in section(page, "")
    env.close()


def test_the_head_names_the_spaces_of_the_arena():
    head = section("reasoning_arena", "")
    arena = pettingzoo.make("parallel", re.findall(r"`(populora/[\w-]+)`", head)[0])
    agent = arena.possible_agents[0]
    assert f"| action space | `{arena.action_space(agent)}` |" in head
    assert f"| observation space | `{arena.observation_space(agent)}` |" in head
    seen = rows("reasoning_arena", "Observations")
    assert set(seen) == set(arena.observation_space(agent).spaces)
    said = {name: cell.strip("`") for name, cell in seen.items() if "steps" not in cell}
    spaces = arena.observation_space(agent).spaces
    assert {name: str(spaces[name]) for name in said} == said
    arena.close()


def test_observations_have_the_types_that_are_told():
    arena = populora_env.parallel_env()
    observation, _ = arena.reset(seed=0)
    assert {type(value) for value in observation["agent_0"].values()} == {str, int}
    spaces = arena.observation_space("agent_0").spaces
    told = re.findall(r"shape `\(\)`,\s+?dtype `(.+?)`", section("reasoning_arena", "Observations"))
    assert {str(space.dtype) for space in spaces.values()} == set(told)
    assert all(space.shape == () for space in spaces.values())
    arena.close()


def test_infos_and_parts_of_the_arena():
    arena = populora_env.parallel_env(
        evaluation="score+compare+critique", revise=True, judge=populora_env.judges.LengthJudge()
    )
    _, infos = arena.reset(seed=0)
    parts: set[str] = set()
    keys = set(infos["agent_0"])
    while arena.agents:
        _, _, _, truncations, infos = arena.step(dict.fromkeys(arena.agents, "Answer: 1"))
        keys |= set(infos["agent_0"])
        parts |= set(infos["agent_0"]["parts"])
        assert not any(truncations.values())
    arena.close()
    told = set(rows("reasoning_arena", "Infos"))
    assert told - keys == {"proposal", "reason"}
    assert keys - told == set()
    assert set(rows("reasoning_arena", "Rewards")) == parts
    weights = populora_env.RewardWeights()
    table = re.findall(
        r"^\| `(\w+)` \|.*\| ([\d.]+) \|$", section("reasoning_arena", "Rewards"), re.MULTILINE
    )
    assert {name: float(weight) for name, weight in table} == {
        name: getattr(weights, name) for name in parts
    }


@pytest.mark.parametrize("page", GYMNASIUM)
def test_infos_of_a_gymnasium_environment(page):
    env = GYMNASIUM[page](num_agents=2)
    _, info = env.reset(seed=0)
    keys, ended = set(info), False
    while not ended:
        _, _, ended, truncated, info = env.step("Problem: 7 + 15 - 2 =")
        keys |= set(info)
        assert not truncated
    env.close()
    assert set(rows(page, "Infos")) == keys


def test_statuses_are_those_of_the_code():
    from populora_env import ProposalStatus, ReplyStatus

    told = re.search(r"^\| `status` \| (.+) \|$", section("reasoning_arena", "Infos"), re.M)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == {status.value for status in ReplyStatus}
    told = re.search(r"^\| `proposal` \| (.+) \|$", section("reasoning_proposer", "Infos"), re.M)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == {status.value for status in ProposalStatus}


def test_phases_are_those_of_the_code():
    assert set(rows("reasoning_arena", "Phases")) == {phase.value for phase in populora_env.Phase}


def test_every_page_has_the_same_sections():
    needed = ["Description", "Phases", "Observations", "Actions", "Rewards", "Arguments"]
    needed += ["End of an episode", "Seeding", "Infos", "Example", "Version history"]
    text = (PAGES / "reasoning_arena.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == needed
    for page in GYMNASIUM:
        text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
        own = set(re.findall(r"^## (.+)$", text, re.MULTILINE))
        assert {"Description", *needed[4:]} <= own


def test_every_environment_is_in_the_index():
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    assert {f"({page.name})" in index for page in PAGES.glob("reasoning_*.md")} == {True}
