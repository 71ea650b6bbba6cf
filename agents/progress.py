"""What is told to who watches something that takes time."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with the name of what is going on, and the fraction of it that is done, 0 to 1."""
