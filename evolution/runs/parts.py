"""What of a run is saved: parts by name, each an object that gives its state and takes it back.

On disk a part's JSON types are an entry of ``state.json`` under its name, its tensors are in
``state.safetensors`` under names that begin with its name and a dot. The learner's have no such
beginning, and it has no other state.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

LATER = frozenset({"births", "exchange", "guard", "progress"})
"""Parts that a run of the last version lacks: there they stay as they were made."""

_PREFIXES = {"appraisal": "fitness."}  # as its tensors were always called
_LEARNER = "learner"

T = TypeVar("T")


class Part(Protocol):
    """One thing that is saved."""

    def state(self) -> Any:
        """As JSON types; where it has tensors, a dictionary that holds them as well."""
        ...

    def load(self, saved: Any, /) -> object:
        """Take back what `state` gave.

        Raises:
            KeyError, ValueError, TypeError, AttributeError: If it is something else.
        """
        ...


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """A part that is the value of an attribute, put in its place anew when it is loaded.

    Attributes:
        owner: Whose attribute it is.
        name: Of the attribute.
        write: From the value to its state; None stays None.
        read: Back.
    """

    owner: object
    name: str
    write: Callable[[T], Any]
    read: Callable[[Any], T]

    def state(self) -> Any:
        """The value's state."""
        value = getattr(self.owner, self.name)
        return None if value is None else self.write(value)

    def load(self, saved: Any) -> None:
        """Set the attribute."""
        setattr(self.owner, self.name, None if saved is None else self.read(saved))


def collect(parts: Mapping[str, Part]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All parts' states: what is JSON by part, and the tensors by name.

    Raises:
        ValueError: If a tensor's name is not of the part that it belongs to.
    """
    state: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        saved: Any = part.state()
        if isinstance(saved, dict):
            own = {key: value for key, value in saved.items() if isinstance(value, Tensor)}
            saved = {key: value for key, value in saved.items() if key not in own}
            for key in own:
                if (owner := _owner(key, parts)) != name:
                    raise ValueError(
                        f"{name}: got tensor {key!r}, which {owner} would read back, expected a "
                        f"name that begins with {_prefix(name)!r}"
                    )
            tensors |= own
        if name != _LEARNER:
            state[name] = saved
    return state, tensors


def restore(
    parts: Mapping[str, Part], state: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Give all parts back what `collect` took.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: If something is missing or does not fit.
    """
    for name, part in parts.items():
        if name in LATER and name not in state:
            continue
        saved = {} if name == _LEARNER else state[name]
        own = {key: tensor for key, tensor in tensors.items() if _owner(key, parts) == name}
        part.load({**saved, **own} if own else saved)


def _owner(tensor: str, parts: Iterable[str]) -> str:
    """The part that a tensor belongs to."""
    named = (name for name in parts if name != _LEARNER)
    return next((name for name in named if tensor.startswith(_prefix(name))), _LEARNER)


def _prefix(part: str) -> str:
    """What the names of a part's tensors begin with."""
    return "" if part == _LEARNER else _PREFIXES.get(part, f"{part}.")
