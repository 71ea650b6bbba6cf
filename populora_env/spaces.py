"""A space of texts.

`UnicodeText` holds any Python string, where `gymnasium.spaces.Text` holds only strings over a
fixed, by default alphanumeric, character set. What a text means is not the space's concern.
"""

import multiprocessing
from collections.abc import Iterable, Sequence
from ctypes import c_uint8
from typing import Any, overload

import gymnasium.vector.utils.shared_memory as shared_memory
import gymnasium.vector.utils.space_utils as space_utils
import numpy as np
from gymnasium.spaces import Space

_WORDS = (
    "A", "B", "tie", "the", "answer", "is", "because", "so", "x", "=", "+", "≤", "π", "½", "né",
    "答え", "\\boxed{7}", "####", "Answer:", "Verdict:", "\n",
)  # fmt: skip

_SHARED_BYTES = 1 << 20  # of UTF-8, for each text without a length limit
_LENGTH = 8  # bytes that hold how many of them are in use


class _Texts(Space[str]):
    """What `iterate` is registered for: a tuple of the very class registered is taken apart."""


class UnicodeText(_Texts):
    """All strings of at most ``max_length`` characters.

    Spaces, newlines, control characters and lone surrogates are characters like any other.

    Args:
        max_length: Largest number of characters (code points), at least 0; None for no limit.
        seed: Seed of the generator that `sample` draws from.

    Raises:
        ValueError: If ``max_length`` is neither None nor an integer of at least 0.
    """

    def __init__(
        self, max_length: int | None = None, seed: int | np.random.Generator | None = None
    ):
        if max_length is not None and (not isinstance(max_length, int) or max_length < 0):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"max_length must be None or an integer >= 0, got {max_length!r}")
        self.max_length = max_length
        super().__init__(shape=(), dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text has no fixed size."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Return one to eight words, numbers and letters, drawn from the space's own generator.

        Args:
            mask: Accepted for compatibility; a text space has nothing to mask.
            probability: Accepted for compatibility, ignored as well.
        """
        del mask, probability
        rng = self.np_random
        words = [
            str(rng.integers(-99, 1000))
            if rng.random() < 0.3
            else _WORDS[rng.integers(len(_WORDS))]
            for _ in range(rng.integers(1, 9))
        ]
        return " ".join(words)[: self.max_length]

    def contains(self, x: Any) -> bool:
        """Return whether ``x`` is a string within the length limit."""
        return isinstance(x, str) and (self.max_length is None or len(x) <= self.max_length)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText(max_length={self.max_length})"


class SharedTexts(Sequence[str]):
    """The texts in shared memory as they are now, one for each environment."""

    def __init__(self, memory: Any, n: int) -> None:
        self._rows = np.frombuffer(memory.get_obj(), dtype=np.uint8).reshape(n, -1)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        used = int.from_bytes(row[:_LENGTH].tobytes(), "little")
        return row[_LENGTH : _LENGTH + used].tobytes().decode("utf-8", "surrogatepass")

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


def _create(space: UnicodeText, n: int = 1, ctx: Any = multiprocessing) -> Any:
    size = _SHARED_BYTES if space.max_length is None else 4 * space.max_length
    return ctx.Array(c_uint8, n * (_LENGTH + size))


def _read(space: UnicodeText, memory: Any, n: int = 1) -> Any:
    del space
    return SharedTexts(memory, n)


def _write(space: UnicodeText, index: int, value: str, memory: Any) -> None:
    size = _LENGTH + (_SHARED_BYTES if space.max_length is None else 4 * space.max_length)
    text = value.encode("utf-8", "surrogatepass")
    if len(text) > size - _LENGTH:
        raise ValueError(
            f"a text must be at most {size - _LENGTH} bytes long in shared memory, got "
            f"{len(text)}: make the vector environment with shared_memory=False"
        )
    row = np.frombuffer(memory.get_obj(), dtype=np.uint8)[index * size : (index + 1) * size]
    row[:_LENGTH] = np.frombuffer(len(text).to_bytes(_LENGTH, "little"), dtype=np.uint8)
    row[_LENGTH : _LENGTH + len(text)] = np.frombuffer(text, dtype=np.uint8)


def _iterate(space: UnicodeText, items: Iterable[str]) -> Any:
    del space
    return iter(items)


space_utils.iterate.register(_Texts)(_iterate)  # SuperSuit iterates over a batch of observations

# Gymnasium's own are for its `Text`, of a fixed character set, and are read only once.
shared_memory.create_shared_memory.register(UnicodeText)(_create)
shared_memory.read_from_shared_memory.register(UnicodeText)(_read)
shared_memory.write_to_shared_memory.register(UnicodeText)(_write)
