"""Two generations of a small population on the embedded model, with ask and tell."""

import tempfile

from agents import LoraPopulation
from evolution import EvolutionConfig, EvolutionManager

population = LoraPopulation.from_pretrained("embedded", size=3, rank=4)
config = EvolutionConfig(
    problems_per_generation=4, judged_problems=1, evolve_every=1, offspring=1, elites=1
)
manager = EvolutionManager(population, "procedural:products(max_digits=1)", config)
for _ in range(2):
    plan = manager.ask()
    transcripts = manager.play(plan)
    result = manager.tell(transcripts)
    print(
        f"generation {result.generation}: accuracy {result.scores.accuracy.round(2)}, "
        f"diversity {result.scores.diversity.round(3)}, best {result.best}, "
        f"born {[individual.name for individual in plan.born]}"
    )
manager.close()
with tempfile.TemporaryDirectory() as folder:
    population.save_adapter(result.best, folder)
    print(f"{result.best} saved as a PEFT adapter")
