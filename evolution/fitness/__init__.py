"""From episodes to fitness: task score, diversity, and the rule that joins them."""

from populora_env.moved import names_of

__getattr__ = names_of(__name__, "evolution.fitness.task")
