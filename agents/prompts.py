"""Token ids of prompts, in which only the chat template writes control tokens.

What users, agents and judges wrote may spell a control token, such as ``<|im_end|>``. It is text,
and has to stay text, or an attempt could end its judge's user turn and open a system turn of its
own. Prompts without such text get the ids they always got.

A template that asks for today's date is told `PROMPT_DATE`, a constant of this package and no
setting of a run: a run goes on with the ids it began with, on whatever day it is resumed.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from populora_env.errors import PopuloraError

# The day that templates which write a date are told, so that a run gives the same ids on any day.
# It is the one that Llama 3's own template takes where it is told none.
PROMPT_DATE = datetime(2024, 7, 26)
# Transformers gives templates a clock, strftime_now; this one stands still.
_DATED = (
    "{% macro strftime_now(form) %}{{ form"
    + "".join(
        f"|replace({f'%{pad}{letter}'!r}, {PROMPT_DATE.strftime(f'%{letter}').lstrip(pad)!r})"
        for pad, letters in (("", "aAbBcdeDfFhHIjmMpRSTuUVwWxXyYzZ"), ("0", "deHIjmMSy"))
        for letter in letters
    ).replace("'%0", "'%-")
    + " }}{% endmacro %}"
)
_PRIVATE = range(0xE000, 0xF8FF)  # code points that mean nothing by themselves
_PRIVATE_PARTS = (_PRIVATE[::-1], range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_PLAIN = "a"
_REPLY = "reply"
_PROBE = "Is 3 < 5 & 7 > 6?  Say \"Yes\" or 'No':\n\tx = {{ y }} \\frac{1}{2}" + " and so on" * 20


class PromptError(PopuloraError, ValueError):
    """A prompt that the tokenizer's chat template cannot write."""


def chat_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt as the user's turn of a chat, ready for the reply.

    A tokenizer without a chat template gets the prompt as it is.

    Raises:
        PromptError: If the chat template refuses it.
    """
    if not tokenizer.chat_template:
        return text_ids(tokenizer, prompt)
    encoder = _encoder(tokenizer)
    ids: list[int] = tokenizer(_rendered(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    if not encoder.spells_control(prompt) and encoder.count(ids) == encoder.of_template:
        return ids
    mark = encoder.unused_mark(prompt)
    return encoder.encode(_rendered(tokenizer, encoder.marked(prompt, mark)), mark)


def check_template(tokenizer: Any) -> None:
    """Check that a chat template, if there is one, writes what a user says, and as it is.

    Raises:
        PromptError: If it refuses it, leaves it out, or changes it.
    """
    if tokenizer.chat_template:
        chat_ids(tokenizer, _PLAIN)
        if _PROBE not in _rendered(tokenizer, _PROBE):
            raise PromptError(
                "chat template: does not write what the user says as it is, so that the model "
                "would not see its problems; expected a template of plain texts; set "
                "tokenizer.chat_template to one"
            )


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text to be completed as it is, without a chat template.

    The tokenizer opens it the way it opens any text, which for some models is a token of its own;
    a text that begins with that token's name gets no second one.
    """
    opening: str | None = tokenizer.bos_token
    opened = bool(opening) and text.startswith(opening or "")
    ids: list[int] = tokenizer(text, add_special_tokens=not opened)["input_ids"]
    encoder = _encoder(tokenizer)
    written = text[len(opening or "") :] if opened else text
    bare: list[int] = tokenizer(_PLAIN, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(_PLAIN)["input_ids"]
    usual = 1 if opened else encoder.count(whole)
    if not encoder.spells_control(written) and encoder.count(ids) == usual:
        return ids
    mark = encoder.unused_mark(text)
    marked = encoder.marked(written, mark)
    if opened:
        return encoder.encode((opening or "") + marked, mark)
    first = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), len(whole))
    return [*whole[:first], *encoder.encode(marked, mark), *whole[first + len(bare) :]]


def turn_end(tokenizer: Any) -> int | None:
    """Id of the control token with which the chat template ends a reply, where it has one."""
    if not tokenizer.chat_template:
        return None
    chat = [{"role": "user", "content": _PLAIN}, {"role": "assistant", "content": _REPLY}]
    encoder = _encoder(tokenizer)
    found: set[str | None] = set()
    # Behind the last turn there may be a prompt for the next reply, behind another the next turn's
    # opening; what comes in both places is the reply's own.
    for turns in (chat, [*chat, chat[0]]):
        try:
            text = _apply(tokenizer, turns, add_generation_prompt=False)
        except PromptError:
            return None
        match = (
            encoder.pattern.match(text.rpartition(_REPLY)[2].lstrip()) if _REPLY in text else None
        )
        found.add(match.group() if match else None)
    name = found.pop() if len(found) == 1 else None
    return None if name in (None, tokenizer.bos_token) else encoder.control[name]


def _rendered(tokenizer: Any, prompt: str) -> str:
    return _apply(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True)


def _apply(tokenizer: Any, chat: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    try:
        template: str = tokenizer.get_chat_template()
        return tokenizer.apply_chat_template(
            chat,
            chat_template=_DATED + template if "strftime_now" in template else None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    # A template is a program that came with the model, so it may fail in any way; Transformers
    # raises ValueError where a tokenizer has several templates and none is the default.
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
            RecursionError, MemoryError) as error:  # fmt: skip
        first = next(iter(str(error).strip().splitlines()), "")
        raise PromptError(
            f"chat template: refuses a {' and '.join(turn['role'] for turn in chat)} turn "
            f"({type(error).__name__}: {first}); expected a default template that writes it; set "
            "tokenizer.chat_template to one"
        ) from error


@dataclass(frozen=True, slots=True)
class _Encoder:
    """Encodes a template's control tokens as such, and everything else as text.

    Attributes:
        control: Ids of the control tokens by name.
        pattern: Any of their names.
        of_template: How many control tokens the chat template writes around a plain prompt.
        starts: The first letter of each, where they may overlap.
        tokenize: A text in which stand-ins stand for control tokens to its ids.
        stand_ins: Stand-in of each control token's name.
        gap: What a mark becomes.
    """

    control: Mapping[str, int]
    pattern: re.Pattern[str]
    starts: re.Pattern[str]
    of_template: int
    tokenize: Callable[[str], list[int]]
    stand_ins: Mapping[str, str]
    gap: str

    def spells_control(self, text: str) -> bool:
        return self.pattern.search(text) is not None

    def count(self, ids: list[int]) -> int:
        known = set(self.control.values())
        return sum(i in known for i in ids)

    def unused_mark(self, text: str) -> str:
        used = set(text)
        for mark in (c for part in _PRIVATE_PARTS for c in map(chr, part)):
            if mark not in used:
                return mark
        raise PromptError("prompt: it holds every private character of Unicode, expected a text")

    def marked(self, text: str, mark: str) -> str:
        """The text with a mark inside each control token's name, wherever one begins."""
        return self.starts.sub(lambda match: match.group() + mark, text)

    def encode(self, text: str, mark: str) -> list[int]:
        """Ids of a text whose marked names are text, and whose other ones are control tokens."""
        text = self.pattern.sub(lambda match: self.stand_ins[match.group()], text)
        return self.tokenize(text.replace(mark, self.gap))


def _encoder(tokenizer: Any) -> _Encoder:
    return _encoder_of(tokenizer, str(tokenizer.chat_template or ""))


@lru_cache(maxsize=4)
def _encoder_of(tokenizer: Any, template: str) -> _Encoder:
    control = {
        token.content: int(i)
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.content
        and (token.special or (token.content in template and not token.content.isspace()))
    }
    # An unknown token stands for what has no other token; it steers nothing, unless it is also
    # the one that ends texts.
    if tokenizer.unk_token not in (tokenizer.bos_token, tokenizer.eos_token, None):
        control.pop(tokenizer.unk_token, None)
    names = sorted(control, key=len, reverse=True)
    any_name = "|".join(map(re.escape, names)) or "(?!)"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one in Python: its names are kept from matching by a space within
        stand_ins, gap = {name: name for name in names}, " "

        tokenize = _as_it_is(tokenizer)
    else:
        # No text can hold a stand-in, since nobody can guess it; no id depends on it.
        secret = secrets.token_hex(8)
        stand_ins = {
            name: f"{chr(_PRIVATE[0])}{secret}-{i}{chr(_PRIVATE[1])}"
            for i, name in enumerate(names)
        }
        gap, tokenize = "", _renamed(backend.to_str, control, stand_ins)
    encoder = _Encoder(
        control, re.compile(any_name), re.compile(f"(?={any_name}).", re.DOTALL), 0, tokenize,
        stand_ins, gap,
    )  # fmt: skip
    if not template:
        return encoder
    plain = tokenizer(_rendered(tokenizer, _PLAIN), add_special_tokens=False)["input_ids"]
    return replace(encoder, of_template=encoder.count(plain))


def _as_it_is(tokenizer: Any) -> Callable[[str], list[int]]:
    def tokenize(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return tokenize


def _renamed(
    serialised: Callable[[], str], control: Mapping[str, int], stand_ins: Mapping[str, str]
) -> Callable[[str], list[int]]:
    """A tokenizer to which only stand-ins are control tokens; made at first use."""

    @lru_cache(maxsize=1)
    def made() -> tuple[Tokenizer, dict[int, int], frozenset[int]]:
        state: dict[str, Any] = json.loads(serialised())
        state["post_processor"] = state["truncation"] = state["padding"] = None
        ids: dict[str, int] = {}
        for token in state["added_tokens"]:
            name = stand_ins.get(token["content"], token["content"])
            ids[name] = token["id"]
            # A normalised stand-in might lose what makes it one of a kind.
            token.update(content=name, normalized=token["normalized"] and name not in stand_ins)
        renamed = Tokenizer.from_str(json.dumps(state))
        known = {i: ids[token.content] for i, token in renamed.get_added_tokens_decoder().items()}
        return renamed, known, frozenset(control.values())

    def tokenize(text: str) -> list[int]:
        renamed, known, forbidden = made()
        ids: list[int] = []
        for i in renamed.encode(text, add_special_tokens=False).ids:
            if i in known:
                ids.append(known[i])
            elif i not in forbidden:
                ids.append(i)
            else:  # the vocabulary itself holds the name: spell it letter by letter
                name = renamed.id_to_token(i) or ""
                letters = [j for letter in name for j in renamed.encode(letter).ids]
                ids.extend(j for j in letters if j not in known and j not in forbidden)
        return ids

    return tokenize
