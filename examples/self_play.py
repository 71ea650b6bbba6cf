"""Self-play in 20 lines: agents write sums for each other, and learn to solve them."""

from agents import LoraPopulation
from evolution import EvolutionConfig, EvolutionManager

population = LoraPopulation.from_pretrained("embedded", size=4, products="auto")
config = EvolutionConfig(
    proposers=2,  # agent_0 and agent_1 write problems, the others solve them
    tries=2,  # each solver answers a problem twice
    problems_per_generation=8,
    judged_problems=0,
    rewards="learnability",  # a proposer earns 1 - solve rate, if anybody solves it
)
manager = EvolutionManager(population, "self-play:expressions(digits=1,terms=2)", config)
for _ in range(2):
    transcripts = manager.play(manager.ask())
    print(manager.tell(transcripts).proposals)
    for transcript in transcripts:
        proposal = transcript.proposal
        print(f"  {proposal.agent}: {proposal.text!r:40.40} {proposal.status} {proposal.reason}")
manager.close()
