"""Strategies: what kind of reply an attempt is, by its surface.

A classifier is a function from the text of a reply to the name of its class. The built-in one looks
for marks that anyone can check by eye; it knows nothing of whether the reply is right. To add one:

    from evolution.fitness.strategies import CLASSIFIERS

    @CLASSIFIERS.add("by_language", classes=("english", "other"))
    def by_language(reply: str) -> str:
        return "english" if reply.isascii() else "other"

    EvolutionConfig(diversity="strategies(classifier=by_language)")
"""

import re
from collections.abc import Callable
from enum import StrEnum

from evolution.errors import OperatorError
from populora_env.settings import Registry

Classifier = Callable[[str], str]

ALONE = 6  # words, up to which one line is an answer alone

_CODE = re.compile(r"```|^\s*(?:def |import |print\(|for \w+ in )", re.MULTILINE)
_CHECK = re.compile(
    r"\b(?:check(?:ing|ed)?|verif(?:y|ying|ied)|double[- ]check|plug(?:ging)? (?:it |this )?back|"
    r"wait|let me re)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"^\s*(?:\d+[.)]\s|[-*•]\s|step \d)", re.MULTILINE | re.IGNORECASE)
_ORDERED = re.compile(r"\b(?:first|second|then|next|finally|therefore)\b", re.IGNORECASE)
_EQUATION = re.compile(r"[\w)]\s*[-+*/^\u00d7\u00f7\u2212]\s*[\w(][^=\n]*=\s*\S")


class Strategy(StrEnum):
    """Classes of the built-in classifier; the first that fits, in this order."""

    EMPTY = "empty"  # nothing but white space
    CODE = "code"  # a fenced block, or a line of Python
    VERIFICATION = "verification"  # says that it checks itself
    STEPS = "steps"  # two numbered or listed lines, or two words such as first, then, finally
    EQUATIONS = "equations"  # an operation and what it comes to, such as 3 + 4 = 7
    ANSWER = "answer"  # one line of a few words
    PROSE = "prose"  # anything else


class Classifiers(Registry[Classifier]):
    """Classifiers by name, each with its classes in order."""

    error = OperatorError

    def __init__(self) -> None:
        super().__init__("classifier")
        self._classes: dict[str, tuple[str, ...]] = {}

    def add(self, name: str, classes: tuple[str, ...] = ()) -> Callable[[Classifier], Classifier]:
        """Decorate a function to give it a name.

        Args:
            name: What settings call it.
            classes: All that it may return, at least one; their order is that of a MAP-Elites axis.

        Raises:
            OperatorError: If the name is taken, or there is no class.
        """
        if not classes:
            raise OperatorError(f"classifier: {name!r} has no classes; give another")
        keep = super().add(name)
        self._classes[name] = tuple(classes)
        return keep

    def classes(self, name: str) -> tuple[str, ...]:
        """All classes of a classifier, in order.

        Raises:
            OperatorError: If there is no such classifier.
        """
        if name not in self:
            raise OperatorError(f"classifier: got {name!r}, expected one of {', '.join(self)}")
        return self._classes[name]

    def classify(self, name: str, reply: str) -> int:
        """Position of a reply's class among the classifier's.

        Raises:
            OperatorError: If there is no such classifier, or it returns what is not among them.
        """
        classes = self.classes(name)
        found = self[name](reply)
        if found not in classes:
            raise OperatorError(
                f"classifier: {name} returned {found!r}, expected one of {', '.join(classes)}"
            )
        return classes.index(found)


CLASSIFIERS = Classifiers()


@CLASSIFIERS.add("surface", classes=tuple(Strategy))
def surface(reply: str) -> str:
    """Strategy of a reply; see `Strategy`."""
    text = reply.strip()
    if not text:
        return Strategy.EMPTY
    if _CODE.search(text):
        return Strategy.CODE
    if _CHECK.search(text):
        return Strategy.VERIFICATION
    if len(_NUMBERED.findall(text)) > 1 or len(_ORDERED.findall(text)) > 1:
        return Strategy.STEPS
    if _EQUATION.search(text):
        return Strategy.EQUATIONS
    if "\n" not in text and len(text.split()) <= ALONE:
        return Strategy.ANSWER
    return Strategy.PROSE
