"""Studies: arms played over seeds at equal budgets, and what sets them apart.

`file` reads what is to be played, `run` plays a cell, an arm with one seed, `measuring` measures
what came of it, `results` keeps it, and `comparing` says what of it is not luck.
"""
