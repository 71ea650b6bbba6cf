from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from evolution.errors import ConfigError
from evolution.studies.design import Entry
from evolution.studies.file import held_out_spec, read_study, study_of
from tests.evolution.studies.conftest import STUDY

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples/studies"


def study(*changes):
    """The tiny study with some of its text changed."""
    text = STUDY.replace("{model}", "embedded")
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return study_of(tomllib.loads(text))


def test_what_a_file_says():
    read = study()
    assert (read.seeds, read.seconds, read.held_out) == ((0, 1), None, 5)
    assert list(read.arms) == ["base", "one", "three"]
    assert read.arms["three"].config(4).size == 3
    assert read.arms["three"].config(4).seed == 4
    assert read.arms["three"].replies == (18,)
    (question,) = read.questions
    assert question.entries == (
        Entry("one", "accuracy"), Entry("three", "accuracy"), Entry("three", "vote")
    )  # fmt: skip
    assert question.against == Entry("one", "accuracy")


def test_an_arm_may_have_its_own_budget_and_seeds_may_be_named():
    read = study(("size = 1", "size = 1\nreplies = [3, 6]"), ("seeds = 2", "seeds = [4, 2]"))
    assert read.arms["one"].replies == (3, 6)
    assert read.seeds == (4, 2)


def test_what_seeds_draw_is_the_same_for_all_arms():
    drawn = "learning_rate = {log_uniform = [3e-5, 3e-3]}\n"
    read = study(("size = 1\n", "size = 1\n" + drawn), ("size = 3\n", "size = 3\n" + drawn))
    rates = [read.arms["one"].config(seed).learning_rate for seed in range(20)]
    assert rates == [read.arms["three"].config(seed).learning_rate for seed in range(20)]
    assert len(set(rates)) == 20
    assert all(3e-5 <= rate <= 3e-3 for rate in rates)
    assert sum(rate < 3e-4 for rate in rates) in range(4, 17)


def test_the_base_is_that_of_all_arms_and_answers_their_held_out_problems():
    own = study(('model = "embedded"\n', ""), ("size = 1", 'size = 1\nmodel = "x"'),
                ("size = 3", 'size = 3\nmodel = "x"'))  # fmt: skip
    assert own.arms["base"].config(0).model == "x"
    assert study(("size = 3", 'size = 3\nmodel = "x"')).arms["base"].config(0).model == "embedded"
    with pytest.raises(ConfigError, match=r"settings\.model: got nothing, and arms differ in it"):
        study(('model = "embedded"\n', ""), ("size = 3", 'size = 3\nmodel = "x"'))
    given = 'problems = "procedural:chain_sum(max_terms=2,max_digits=1)"'
    products = 'problems = "procedural:products"'
    turns = '= {in_turn = ["procedural:products", "procedural:gcd"]}'
    for change in (f"problems {turns}", f"{given}\nheld_out_from {turns}"):
        base = study((given, change)).arms["base"]
        specs = [held_out_spec(base.config(seed)) for seed in (0, 1)]
        assert specs == ["procedural:products", "procedural:gcd"]
    with pytest.raises(ConfigError, match=r"arms\.three: held-out problems: got 'procedural:gcd'"):
        study(("size = 3", f"size = 3\nproblems {turns}"), (given, products))


def test_seeds_may_take_turns_at_bases():
    turns = 'model = {in_turn = ["a", "b", "c"]}'
    read = study(('model = "embedded"', turns))
    for arm in read.arms.values():  # the base model among them
        assert [arm.config(seed).model for seed in range(5)] == ["a", "b", "c", "a", "b"]
    with pytest.raises(ConfigError, match=r"arms\.one\.model: in_turn: .* seeds 0, 3 use 1 of 3"):
        study(('model = "embedded"', turns), ("seeds = 2", "seeds = [0, 3]"))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("seeds = 2", "sedes = 2", "unknown field 'sedes'; did you mean seeds?"),
        ('name = "tiny"', 'name = "../x"', "name: got '../x', expected letters"),
        ('name = "tiny"', "", "name: got nothing, expected it in the file"),
        ("seeds = 2", "seeds = 0", "seeds: got 0, expected how many"),
        ("seeds = 2", "seeds = [1, 1]", "a list of different integers"),
        ("replies = 18", "replies = [5, 5]", "replies: got .5, 5., expected an integer >= 1"),
        ("replies = 18", 'replies = "many"', "replies: got 'many'"),
        ("replies = 18", "replies = true", "replies: got True"),
        ("replies = 18", "replies = 18\nseconds = 0", "seconds: got 0, expected a number above 0"),
        ("held_out = 5", "held_out = 0", "held_out: got 0, expected an integer >= 1"),
        ("rank = 2", "rnak = 2", "settings: unknown setting 'rnak'; did you mean rank"),
        ("rank = 2", "rank = 0", "arms.one: rank: got 0, expected an integer >= 1"),
        ("rank = 2", "seed = 2", "settings.seed: cannot be set in a study: each run has one"),
        ("rank = 2", "max_minutes = 2", "cannot be set in a study: say seconds at the top"),
        ("size = 3", "size = 0", "arms.three: size: got 0"),
        ("size = 3", "elites = 9", "arms.three: elites . offspring: got 9"),
        (
            "size = 3",
            'engine = "vllm"\nserver = "http://x:1"\nadapter_folder = "y"',
            "expected local",
        ),
        ("size = 3", 'problems = "procedural:products"', "arms.three: held-out problems: got"),
        ("rank = 2", 'products = "fast"', "arms.one: products: got 'fast', expected one of"),
        ("size = 3", "learning_rate = {log_uniform = [0, 1]}", "expected numbers above 0"),
        ("size = 3", "learning_rate = {uniform = [1]}", "learning_rate.uniform: got .1., expected"),
        ("size = 3", "learning_rate = {normal = [1, 2]}", "expected a value, or one of .uniform"),
        ("[arms.three]", "[arms.base]", "arms.base: expected a name of"),
        ('"one", "three",', '"one", "tree",', "unknown arm 'tree'; did you mean three"),
        ("size = 3", "size = 3\nmembers = false", "got vote of three, whose members are not"),
        ("size = 3", "size = 3\nmembers = 0", "arms.three.members: got 0, expected true or"),
        ("three:vote", "three:votes", "unknown figure 'votes'; did you mean vote"),
        ("three:vote", "three", "arms and beside: got .*, expected each arm once"),
        ('against = "one"', 'against = "base"', "expected one of the question's arms"),
        ('against = "one"', 'x = "seconds"', "x: got 'seconds', expected arms or replies"),
        ('against = "one"', "against = 3", "unknown arm '3'"),
        (
            'against = "one"',
            'beside = ["three"]',
            "arms and beside: got .*, expected each arm once",
        ),
        (
            'title = "Are three better than one?"',
            'title = "??"',
            "title: got '..', expected letters",
        ),
        ("title = ", "tilte = ", "unknown field 'tilte'; did you mean title"),
        ("[[questions]]", "[questions]", "questions: got .*, expected a list"),
    ],
)
def test_what_cannot_be_is_one_line(before, after, said):
    with pytest.raises(ConfigError, match=said) as error:
        study((before, after))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "said"), [("x = ", "not valid TOML"), (None, "cannot be read")])
def test_a_file_that_is_none(tmp_path, text, said):
    file = tmp_path / "study.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_study(file)


def test_questions_need_titles_that_make_different_files():
    again = '[[questions]]\ntitle = "are three better, than one"\narms = ["one"]\n[[questions]]'
    with pytest.raises(ConfigError, match=r"questions.1..title: got 'Are three .* and another"):
        study(("[[questions]]", again))


def test_without_questions_all_arms_are_shown():
    text = STUDY.replace("{model}", "embedded").partition("[[questions]]")[0]
    (question,) = study_of(tomllib.loads(text)).questions
    assert [entry.arm for entry in question.entries] == ["base", "one", "three"]
    assert question.against is None


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_examples_can_be_read(file):
    assert read_study(file).name == file.stem


def test_the_page_shows_a_file_that_can_be_read():
    text = (ROOT / "docs/studies.md").read_text()
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(study_of(tomllib.loads(shown)).arms) == 4


def test_self_play_needs_ordinary_held_out_problems():
    spec = "procedural:chain_sum(max_terms=2,max_digits=1)"
    change = (spec, "self-play:expressions")
    with pytest.raises(ConfigError, match=r"arms.one: held_out_from: got none"):
        study(change)
    own = f'rank = 2\nheld_out_from = "{spec}"'
    read = study(
        change,
        ("rank = 2", own),
        ("size = 1", "size = 2\nproposers = 1"),
        (
            "size = 3\noffspring = 1",
            "size = 3\nproposers = 1\noffspring = 0\nelites = 0\nparents = 1",
        ),
    )
    assert read.arms["base"].config(0).problems == spec
