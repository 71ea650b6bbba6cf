"""What the tests ask a server, and what the same adapters say without one."""

from __future__ import annotations

from agents.policy import Request
from agents.population import LoraPopulation
from populora_env.records import Phase
from tests.agents.helpers import randomise as randomise_all
from tests.conftest import make_tiny_base


def randomise(lora, seed=0):
    """Give every adapter its own factors, up to its own rank."""
    randomise_all(lora, seed=seed).enforce_ranks()


def asked(*agents, tokens=12):
    return [
        Request(agent, Phase.SOLVE, f"{seed} + 2 =", tokens, seed)
        for seed, agent in enumerate(agents)
    ]


ALL = ("agent_0", "agent_1", "agent_2", "base") * 2


def local_replies(population, requests, **how):
    """What the same adapters say in this process."""
    here = LoraPopulation(
        make_tiny_base(), population.size, population.lora.ranks.tolist(), temperature=0.0
    )
    for there, ours in zip(population.lora.layers(), here.lora.layers(), strict=True):
        ours.A[:], ours.B[:] = there.A, there.B
    for agent, alpha in enumerate(population.lora.alpha.tolist()):
        here.lora.set_alpha(agent, alpha)
    return here.generate(requests, **how)
