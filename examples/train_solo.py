"""One learner among guessing peers, trained by policy gradient on the arena's rewards: no torch.

It learns which of a few given ways to answer and to judge pays best; none is marked as right.
"""

import re

import gymnasium
import numpy as np

from agents.measuring.statistics import Estimate
from populora_env import RewardWeights, load_problems
from populora_env.gym import ENV_ID
from populora_env.keys import generator


def terms(prompt):
    expression = re.search(r": (.+) =", prompt)[1].replace(" ", "")
    return [int(term) for term in re.findall(r"[-+]?\d+", expression)]


def check(prompt):
    said = re.findall(r"Attempt ([AB]):\n> Answer: (-?\d+)", prompt)
    right = [name for name, answer in said if int(answer) == sum(terms(prompt))]
    return right[0] if len(right) == 1 else "tie"


WAYS = {
    "solve": {
        "silent": lambda _: "",
        "first number": lambda prompt: f"Answer: {terms(prompt)[0]}",
        "sum without signs": lambda prompt: f"Answer: {sum(map(abs, terms(prompt)))}",
        "sum": lambda prompt: f"Answer: {sum(terms(prompt))}",
    },
    "compare": {"silent": lambda _: "", "A": lambda _: "A", "tie": lambda _: "tie", "check": check},
}


def shares(logits):
    return np.exp(logits) / np.exp(logits).sum()


def play(env, policy, rng):
    """Play an episode; return the way chosen in each phase, what it was paid, and correctness."""
    chosen = {phase: rng.choice(len(ways), p=shares(policy[phase])) for phase, ways in WAYS.items()}
    paid, ended, (seen, _) = dict.fromkeys(WAYS, 0.0), False, env.reset()
    while not ended:
        phase = seen["phase"]
        reply = list(WAYS[phase].values())[chosen[phase]](seen["prompt"])
        seen, reward, ended, _, _ = env.step(reply)
        paid[phase] += reward
    return chosen, paid, env.unwrapped.transcript.attempts[0].grade.correct


def report(title, policy):
    played = [play(fresh, policy, generator(title, episode)) for episode in range(300)]
    both = np.array([(sum(paid.values()), correct) for _, paid, correct in played])
    (gain, right), (e, f) = both.mean(axis=0), both.std(axis=0, ddof=1) / len(both) ** 0.5
    gain, right = Estimate(gain, e).text(), Estimate(right, f).text()
    print(f"{title}: return {gain}, accuracy {right}")


spec = "procedural:chain_sum(max_terms=2,max_digits=1)"
sources = [load_problems(spec, split=split) for split in ("train", "test")]
weights = RewardWeights(judging=1)
train, fresh = (gymnasium.make(ENV_ID, problems=source, rewards=weights) for source in sources)
policy = {phase: np.zeros(len(ways)) for phase, ways in WAYS.items()}
expected = dict.fromkeys(WAYS, 0.0)
report("before, 300 fresh problems", policy)
for episode in range(1500):
    chosen, paid, _ = play(train, policy, generator("train", episode))
    for phase, choice in chosen.items():
        lead = paid[phase] - expected[phase]
        expected[phase] += 0.05 * lead
        policy[phase] += 0.3 * lead * (np.eye(len(policy[phase]))[choice] - shares(policy[phase]))
report("after 1500 episodes", policy)
for phase, ways in WAYS.items():
    print(phase, dict(zip(ways, shares(policy[phase]).round(2).tolist(), strict=True)))
