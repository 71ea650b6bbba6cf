"""Problems from files and from the hub."""

from populora_env.moved import names_of

__getattr__ = names_of(__name__, "populora_env.problems.files.reading")
