"""A console for words that come from anywhere: paths, specs, and what strangers' files hold."""

from typing import Any

from rich.console import Console
from rich.text import Text

from populora_env.episodes.rendering import visible


class PlainConsole(Console):
    """Prints text as it is: no markup is read from it, and no escape in it reaches the terminal.

    Only what the program itself styles (bars, tables, `rich.text.Text`) has a style.

    Args:
        options: As for `rich.console.Console`; by default without highlighting.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("highlight", False)
        super().__init__(markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; texts stay whole lines, which the terminal wraps and others can copy."""
        if all(isinstance(entry, str) for entry in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Text of a string, with nothing in it that a terminal would obey."""
        return super().render_str(visible(text), **options)
