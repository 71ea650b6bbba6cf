"""Answers of MATH-500, rewritten so that they stay right and spoiled so that they do not."""

import json
import re
from pathlib import Path

import pytest

from populora_env.grading import Grader
from populora_env.records import Problem

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "math500.jsonl"
ANSWERS = 60

NUMBER = re.compile(r"-?[0-9]+")
WORDS = re.compile(r"\\text\s?\{\(?([A-Za-z ]+)\)?\}")
TERMS = re.compile(r"[0-9a-z]+(?:\^\{?[0-9]\}?)?(?: ?[-+] ?[0-9a-z]+(?:\^\{?[0-9]\}?)?)+")
FACTORS = re.compile(r"([0-9]+)(\\sqrt\{?[0-9]+\}?|\\pi)")
BRACKETS = re.compile(r"(?<!\\left)([(\[])(.*)([)\]])")
UNITS = ("cm", "square units", "dollars", "km/h", "meters per second")


def box(answer):
    return rf"So it is $\boxed{{{answer}}}$."


def is_scalar(gold):
    return not re.search(
        r"[,=<>A-Z]|\\(?:text|begin|le|ge|in|cup|pm|mbox|circ|%|\$|infty)|[_%]", gold
    )


def spaced(gold):
    return box(re.sub(r"(?<=[0-9a-z)}])([-+,])(?=[0-9a-z\\({-])(?![0-9]{3})", r" \1\, ", gold))


def other_fractions(gold):
    return box(gold.replace(r"\frac", r"\dfrac"))


def sized(gold):
    return box(re.sub(r"(?<!\\left)\(", r"\\left(", re.sub(r"(?<!\\right)\)", r"\\right)", gold)))


def with_unit(gold):
    unit = UNITS[len(gold) % len(UNITS)]
    return box(rf"{gold}\ \text{{{unit}}}" if is_scalar(gold) else rf" {gold} ")


def named(gold):
    return box(f"x = {gold}" if is_scalar(gold) and "x" not in gold else rf"\displaystyle {gold}")


def typed(gold):
    text = re.sub(r"\\sqrt\{?([0-9]+)\}?", "\u221a\\1", gold)
    text = re.sub(r"\\pi(?![a-z])", "\u03c0", text).replace("-", "\u2212")
    return box(re.sub(r"\\infty(?![a-z])", "\u221e", text).replace(r"\cup", "\u222a"))


def reordered(gold):
    if FACTORS.fullmatch(gold):
        return box(FACTORS.sub(r"\2 \\cdot \1", gold))
    if TERMS.fullmatch(gold):
        parts = re.findall(r"[-+]?[^-+]+", gold.replace(" ", ""))
        return box("".join(part if part[0] in "+-" else f"+{part}" for part in parts[::-1]))
    if re.fullmatch(r"[-0-9]+(?:, ?[-0-9]+)+", gold) and not re.fullmatch(r"[0-9]+,[0-9]{3}", gold):
        return box(", ".join(gold.replace(" ", "").split(",")[::-1]))
    return box(rf"\,{gold}\,")


def in_prose(gold):
    return f"Adding both gives what was asked. Therefore, the answer is ${gold}$."


def in_bold(gold):
    return rf"Some steps.{chr(10)}{chr(10)}**Answer:** \( {gold} \)"


def displayed(gold):
    return f"Simplify:\n\\[\n\\boxed{{{gold}}}.\n\\]\nThis is what we wanted."


def restyled(gold):
    words = WORDS.fullmatch(gold)
    if words:
        return box(gold.replace(r"\text", r"\mathrm"))
    return box(rf"\color{{blue}}{{{gold}}}")


def renumbered(gold):
    plain = gold.replace(r",\!", "").replace(",", "")
    if NUMBER.fullmatch(plain) and len(plain.lstrip("-")) > 3:
        return box(f"{int(plain):,}".replace(",", "{,}"))
    if NUMBER.fullmatch(gold):
        return box(f"{gold}.0")
    return box(re.sub(r"(?<![0-9])\\frac\{([0-9]+)\}\{([0-9]+)\}(?!.)", r"\1/\2", gold))


REWRITINGS = (
    spaced, other_fractions, sized, with_unit, named, typed,
    reordered, in_prose, in_bold, displayed, restyled, renumbered,
)  # fmt: skip


def digit_changed(gold, which):
    """Change one digit; of a word, the last letter."""
    digits = [match.start() for match in re.finditer("[0-9]", re.sub(r"_\S*", "", gold))]
    if not digits:
        bare = re.sub(r"\\[A-Za-z]+", lambda match: " " * len(match[0]), gold)
        letters = [match.start() for match in re.finditer("[A-Za-z]", bare)]
        if not letters:
            return str(7 + which)
        last = letters[-1 - which % min(2, len(letters))]
        return (
            gold[:last] + chr((ord(gold[last].lower()) - 96 + which) % 26 + 97) + gold[last + 1 :]
        )
    place = digits[which % len(digits)]
    changed = (int(gold[place]) + 1 + which % 8) % 10 or 5
    changed = changed if changed != int(gold[place]) else 7
    return gold[:place] + str(changed) + gold[place + 1 :]


def spoiled(gold):
    yield box(digit_changed(gold, 0))
    yield box(digit_changed(gold, 1))
    scalar = is_scalar(gold) and gold != "0"
    yield box(f"-({gold})" if scalar else digit_changed(gold, 2))
    yield box(f"{gold} + 1" if scalar else digit_changed(gold, 3))
    yield box(f"2 ({gold})" if scalar else digit_changed(gold, 4))
    yield box(rf"{gold} \text{{ or }} {digit_changed(gold, 5)}")
    yield box(f"{gold} h" if scalar and "h" not in gold else digit_changed(gold, 6))
    swapped = BRACKETS.fullmatch(gold)
    if swapped:
        yield box(f"{'[' if swapped[1] == '(' else '('}{swapped[2]}{swapped[3]}")
    else:
        yield box(rf"{gold}, {digit_changed(gold, 7)}")


def sample():
    if not DATA.exists():
        pytest.skip(f"needs {DATA}")
    rows = map(json.loads, DATA.read_text(encoding="utf-8").splitlines())
    golds = sorted({row["answer"] for row in rows})
    return [golds[index * len(golds) // ANSWERS] for index in range(ANSWERS)]


@pytest.mark.slow
def test_rewritten_answers_stay_right():
    missed = []
    with Grader(timeout=20.0) as grader:
        for gold in sample():
            problem = Problem.create("?", gold, "math")
            replies = [rewrite(gold) for rewrite in REWRITINGS]
            missed += [
                (gold, reply) for reply in replies if not grader.grade(problem, reply).correct
            ]
    assert len(missed) <= 0.005 * ANSWERS * len(REWRITINGS), missed


@pytest.mark.slow
def test_spoiled_answers_are_wrong():
    with Grader(timeout=20.0) as grader:
        for gold in sample():
            problem = Problem.create("?", gold, "math")
            replies = list(spoiled(gold))
            assert len(replies) == 8
            assert [reply for reply in replies if grader.grade(problem, reply).correct] == [], gold
