"""Operators by name: selections, crossovers and mutations, and how settings call for them.

A setting names an operator, with parameters in brackets if they are not to be the default ones:
``dare(drop=0.5)``. Several mutations are joined by ``+``, each with the chance that a child
undergoes it in front: ``gaussian+0.3*dropout(rate=0.2)``.

An operator is a function; its keyword-only arguments are its parameters. Naming it adds it, before
or after the built-in ones are used, and from then on settings and the command line know it:

    from evolution.operators.crossover import CROSSOVERS, mix, shares

    @CROSSOVERS.add("mostly_fitter", share=(0.5, 1.0))
    def mostly_fitter(lora, step, *, share: float = 0.9):
        return mix(lora, step, shares(step.parents.shape[1], share))

    EvolutionConfig(crossover="mostly_fitter(share=0.8)")
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from evolution.errors import OperatorError
from populora_env.problems import ProblemSpecError
from populora_env.problems.sources.spec import parse_mixture
from populora_env.settings import Registry, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])
Range = tuple[float, float]
Allowed = Range | Mapping[str, Any]
"""What a parameter may be: from the least to the greatest number, or any name that is a key."""


@dataclass(frozen=True, slots=True)
class Use(Generic[F]):
    """An operator as a setting calls for it.

    Attributes:
        name: Its name.
        function: What it does.
        parameters: Those that were given; the others have their defaults.
        chance: Chance that it is applied, for mutations; weight of a measure of diversity.
    """

    name: str
    function: F
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    chance: float = 1.0

    def __call__(self, *given: Any) -> Any:
        """Call the function with these and the parameters."""
        return self.function(*given, **self.parameters)

    def __str__(self) -> str:
        listed = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.name}({listed})" if listed else self.name


class Operators(Registry[F]):
    """Operators of one kind, by name.

    Args:
        kind: What they are, as messages call them.
        factor: What the number in front of a name is.
        most: Greatest number allowed there.
    """

    error = OperatorError

    def __init__(self, kind: str, factor: str = "chance", most: float = 1.0) -> None:
        super().__init__(kind)
        self._factor, self._most = factor, most
        self._allowed: dict[str, dict[str, Allowed]] = {}

    def add(self, name: str, **allowed: Allowed) -> Callable[[F], F]:
        """Decorate a function to give it a name.

        Args:
            name: A Python identifier that no other operator of the kind has.
            allowed: What parameters may be: least and greatest number, or names. Names that are
                added to the mapping later count.

        Raises:
            OperatorError: If the name is taken or cannot be one.
        """
        keep = super().add(name)
        self._allowed[name] = allowed
        return keep

    def check_name(self, name: str) -> None:
        """Raise an OperatorError if a new operator cannot have this name."""
        if not name.isidentifier():
            raise OperatorError(f"{self.kind}: name {name!r} must be an identifier, such as my_own")
        super().check_name(name)

    def read(self, text: str) -> Use[F]:
        """Read a setting that names one operator.

        Raises:
            OperatorError: If it cannot be read, or names what does not exist.
        """
        uses = self.read_several(text)
        if len(uses) != 1 or uses[0].chance != 1:
            raise OperatorError(f"{self.kind}: got {text!r}, expected one of {', '.join(self)}")
        return uses[0]

    def read_one(self, text: str) -> Use[F] | None:
        """Read a setting that names one operator, or none of them by ``none``.

        Raises:
            OperatorError: If it cannot be read, or names what does not exist.
        """
        return None if text == "none" else self.read(text)

    def read_several(self, text: str) -> list[Use[F]]:
        """Read a setting that names operators joined by ``+``; ``none`` names nothing.

        Raises:
            OperatorError: If it cannot be read, or names what does not exist.
        """
        if text == "none":
            return []
        try:
            parts = parse_mixture(text)
        except ProblemSpecError:
            raise OperatorError(
                f"{self.kind}: got {text!r}, expected NAME or NAME(parameter=value), the name one "
                f"of {', '.join(self)}"
            ) from None
        return [self._use(part.name, part.parameters, part.weight) for part in parts]

    def _use(self, name: str, parameters: dict[str, Any], chance: float) -> Use[F]:
        if name not in self:
            raise OperatorError(
                f"{self.kind}: got {name!r}, expected one of {', '.join(self)}"
                f"{did_you_mean(name, self)}"
            )
        if chance > self._most:
            raise OperatorError(
                f"{self.kind}: {self._factor} of {name}: got {chance:g}, expected at most "
                f"{self._most:g}"
            )
        function, allowed = self[name], self._allowed.get(name, {})
        known = {
            entry.name: entry.default
            for entry in inspect.signature(function).parameters.values()
            if entry.kind is entry.KEYWORD_ONLY
        }
        for parameter, value in parameters.items():
            where = f"{self.kind}: {name}: {parameter}"
            if parameter not in known:
                expected = ", ".join(known) or "no parameter"
                raise OperatorError(
                    f"{where} is unknown, expected {expected}{did_you_mean(parameter, known)}"
                )
            _check(where, value, known[parameter], allowed.get(parameter))
        return Use(name, function, parameters, chance)


def _check(where: str, value: Any, default: Any, allowed: Allowed | None) -> None:
    """Check a parameter's type against its default's, and whether it is allowed."""
    if isinstance(default, bool) or isinstance(value, bool):
        if type(value) is not type(default):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise OperatorError(f"{where}: got {value!r}, expected {kind}")
    elif isinstance(default, int) and not isinstance(value, int):
        raise OperatorError(f"{where}: got {value!r}, expected an integer")
    elif isinstance(default, float) and not (
        isinstance(value, int | float) and math.isfinite(value)
    ):
        raise OperatorError(f"{where}: got {value!r}, expected a finite number")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise OperatorError(f"{where}: got {value!r}, expected a text")
        if isinstance(allowed, Mapping) and value not in allowed:
            raise OperatorError(
                f"{where}: got {value!r}, expected one of {', '.join(allowed)}"
                f"{did_you_mean(value, allowed)}"
            )
        return
    if isinstance(allowed, tuple) and not allowed[0] <= value <= allowed[1]:
        raise OperatorError(f"{where}: got {value!r}, expected {allowed[0]:g} to {allowed[1]:g}")
