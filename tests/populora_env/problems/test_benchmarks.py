"""GSM8K, MATH and MATH-500: real local copies, made-up ones, and a hub that is not there."""

import json
import re
import sys
import types
from pathlib import Path

import pytest

from populora_env.problems import ProblemSpecError, check_disjoint, load_problems
from populora_env.problems.benchmarks import BENCHMARKS, DATA_VARIABLE, SUBJECTS
from populora_env.records import AnswerKind
from populora_env.testing import check_problem_source

SHARED = Path(__file__).parents[3] / "../shared/data"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of made-up local copies; return a function that writes one."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)  # nothing here may go to the hub

    def write(name, rows):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write


@pytest.fixture
def hub(monkeypatch):
    """A fake ``datasets`` package; return its tables and the calls it got."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    tables, calls = {}, []

    def load_dataset(name, config=None, *, split, revision):
        calls.append((name, config, split, revision))
        return tables[name, config, split]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return tables, calls


def word(i):
    return {"question": f"{i} ducks?", "answer": f"Count <<{i}>> them.\n#### {i:,}"}


def competition(i, subject="Algebra", level="Level 1"):
    solution = f"Think. $\\boxed{{{i}}}$"
    return {"problem": f"{subject} {i}?", "level": level, "type": subject, "solution": solution}


def refused(spec, **arguments):
    with pytest.raises(ProblemSpecError) as caught:
        load_problems(spec, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


needs_copies = pytest.mark.skipif(not SHARED.is_dir(), reason="no local copies of the benchmarks")


@pytest.mark.slow
@needs_copies
def test_the_real_gsm8k(monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(SHARED))
    train, test = (load_problems("gsm8k", split=split) for split in ("train", "test"))
    assert (len(train), len(test), len(load_problems("gsm8k"))) == (7473, 1319, 8792)
    check_disjoint(train, test)
    check_problem_source(train, test)
    assert (test[0].answer, test[0].answer_kind, test[0].source) == (
        "18", AnswerKind.NUMBER, "gsm8k"
    )  # fmt: skip
    assert test[0].prompt.startswith("Janet\u2019s ducks lay 16 eggs")
    assert test[0].metadata["solution"].endswith("#### 18")
    assert test[1].metadata["read_from"] == "gsm8k_test.jsonl:2"
    assert [p.id for p in load_problems(f"{SHARED}/gsm8k_test.jsonl")] == [p.id for p in test]


@needs_copies
def test_the_real_math500():
    everything = load_problems(f"math500(path='{SHARED}')", split="test")
    assert len(everything) == 500
    assert everything[0].answer == r"\left( 3, \frac{\pi}{2} \right)"
    assert everything[0].answer_kind is AnswerKind.MATH
    assert everything[0].metadata["unique_id"] == "test/precalculus/807.json"
    assert {p.metadata["subject"] for p in everything} == set(SUBJECTS)
    levels = [len(load_problems(f"math500(path='{SHARED}',level={n})")) for n in range(1, 6)]
    assert levels == [43, 90, 105, 128, 134]
    some = load_problems(f"math500(path='{SHARED}',level=[1,2],subject=[algebra,'Number Theory'])")
    assert {p.metadata["level"] for p in some} == {1, 2}
    assert {p.metadata["subject"] for p in some} == {"algebra", "number_theory"}


def test_answers_with_commas_are_numbers(data):
    data("gsm8k_test.jsonl", [word(1234)])
    assert load_problems("gsm8k", split="test")[0].answer == "1,234"


def test_a_training_split_alone_is_enough_to_train(data):
    data("gsm8k_train.jsonl", [word(i) for i in range(3)])
    assert len(load_problems("gsm8k", split="train")) == 3
    assert "the package datasets" in refused("gsm8k", split="test")


def test_overlapping_splits_are_refused(data):
    data("gsm8k_train.jsonl", [word(i) for i in range(5)])
    data("gsm8k_test.jsonl", [word(i) for i in range(3, 8)])
    for split in ("train", None):
        assert refused("gsm8k", split=split) == (
            "gsm8k: 2 problems are in both splits, such as gsm8k_train.jsonl:4, which is also in "
            "gsm8k_test.jsonl: mend the local copy"
        )


def test_a_file_may_not_train_on_what_a_benchmark_tests_on(data):
    data("gsm8k_train.jsonl", [word(i) for i in range(5)])
    data("gsm8k_test.jsonl", [word(i) for i in range(100, 120)])
    own = data("own.jsonl", [word(i) for i in range(90, 120)])
    assert len(load_problems(f"gsm8k+{own}")) == 5 + 30
    for spec in (f"gsm8k+{own}", f"2*gsm8k+{own}"):
        assert "training problems are in the test split of another source" in refused(
            spec, split="train"
        )
    data("own.jsonl", [word(i) for i in range(200, 220)])
    load_problems(f"gsm8k+{own}", split="train")


def test_math_by_subject_and_level(data):
    for split in ("train", "test"):
        for subject in SUBJECTS:
            rows = [
                competition(i, subject.replace("_", " "), f"Level {i % 5 + 1}")
                for i in (range(10) if split == "train" else range(10, 15))
            ]
            data(f"math/{subject}_{split}.jsonl", rows)
    assert len(load_problems("math")) == 7 * 15
    assert len(load_problems("math", split="test")) == 7 * 5
    assert len(load_problems("math(subject=geometry,level=5)", split="train")) == 2
    train = load_problems("math(subject=[algebra,geometry])", split="train")
    assert len(train) == 20
    assert {p.metadata["subject"] for p in train.distinct(8)} == {"algebra", "geometry"}
    assert all(
        p.answer_kind is AnswerKind.MATH and "Think" in p.metadata["solution"] for p in train
    )


def test_math_as_the_hub_lays_it_out_and_in_one_file(data):
    data("math/geometry/test-00000-of-00001.jsonl", [competition(1, "Geometry")])
    assert len(load_problems("math(subject=geometry)", split="test")) == 1
    assert "algebra_test.jsonl, counting" in refused("math", split="test")
    data("math_test.jsonl", [competition(1), competition(2, "Counting & Probability", "Level ?")])
    assert len(load_problems("math", split="test")) == 2
    unknown = load_problems("math(subject=counting_and_probability)", split="test")
    assert unknown[0].metadata["level"] is None


def test_math_keeps_a_repeated_problem_once_and_out_of_the_training_split(data):
    data("math_train.jsonl", [competition(i) for i in (1, 2, 2, 3)])
    data("math_test.jsonl", [competition(i) for i in (3, 4)])
    train, test = (load_problems("math", split=split) for split in ("train", "test"))
    assert sorted(p.answer for p in train) == ["1", "2"]
    check_disjoint(train, test)
    assert sorted(p.answer for p in load_problems("math")) == ["1", "2", "3", "4"]


BROKEN = [
    ("gsm8k_test", [word(1), {"question": "a"}], "gsm8k", ".jsonl:2: column 'answer' is missing"),
    ("gsm8k_test", [{"answer": "#### 1"}], "gsm8k", ".jsonl:1: column 'question' is missing"),
    ("gsm8k_test", [word(1), {"question": "a", "answer": "5"}], "gsm8k",
     ".jsonl:2: column 'answer' must end in '#### NUMBER', got '5'"),
    ("gsm8k_test", [{"question": "a", "answer": "#### many"}], "gsm8k",
     ".jsonl:1: column 'answer' must hold an answer of kind number, got 'many'"),
    ("gsm8k_test", [word(1), word(2), word(1)], "gsm8k", ".jsonl:3: problem "),
    ("gsm8k_test", [], "gsm8k", "gsm8k_test.jsonl: holds no row"),
    ("math_test", [{**competition(1), "solution": "none"}], "math",
     ".jsonl:1: column 'solution' must hold the answer in \\boxed{}, got 'none'"),
    ("math_test", [{**competition(1), "type": "Knots"}], "math", "column 'subject' must be one of"),
    ("math500", [{**competition(1), "level": 1}, competition(1)], "math500", ".jsonl:2: problem "),
    ("math500", [{"problem": "a", "answer": "1", "solution": "s", "subject": "Algebra"}],
     "math500", ".jsonl:1: column 'level' is missing"),
    ("math500", [{"problem": "a", "solution": "\\boxed{1}", "level": 1}], "math500",
     ".jsonl:1: column 'subject' is missing"),
    ("math500", [competition(1)], "math500(level=5)", "no problem is left of {'level': 5}"),
]  # fmt: skip


@pytest.mark.parametrize(("stem", "rows", "spec", "said"), BROKEN)
def test_a_broken_copy_is_refused_with_its_line_and_column(data, stem, rows, spec, said):
    data(f"{stem}.jsonl", rows)
    assert said in refused(spec, split="test")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("math(subject=topology)", "subject must be one of algebra, counting_and_probability"),
        ("math500(level=6)", "level must be one of 1, 2, 3, 4, 5, or several in brackets, got 6"),
        ("math500(level=true)", "got True"),
        ("math500(level=[])", "got 'none'"),
        ("gsm8k(level=1)", "gsm8k: unknown option 'level', expected path"),
        ("gsm8k(path='/no/where')", "gsm8k: path must be an existing folder with gsm8k_train"),
        ("math500(path=3)", "math500: path must be an existing folder"),
        ("gsm8k(level)", "options must have the form"),
    ],
)
def test_bad_options_are_named(data, spec, said):
    assert said in refused(spec)


def test_math500_has_no_training_split(data):
    assert "math500 is a test set and has no train split" in refused("math500", split="train")


def test_a_folder_that_was_named_is_the_only_place_looked_in(data, tmp_path, monkeypatch):
    assert f"gsm8k: {tmp_path} holds no gsm8k_test.jsonl" in refused(
        f"gsm8k(path='{tmp_path}')", split="test"
    )
    monkeypatch.setenv(DATA_VARIABLE, "/no/where")
    assert "POPULORA_DATA must be an existing folder with gsm8k_train.jsonl" in refused("gsm8k")


def test_the_hub_is_asked_at_pinned_revisions(hub):
    tables, calls = hub
    tables["openai/gsm8k", "main", "test"] = [word(1)]
    tables["openai/gsm8k", "main", "train"] = [word(2)]
    for subject in SUBJECTS:
        tables["EleutherAI/hendrycks_math", subject, "test"] = [competition(1, subject)]
    row = {**competition(1), "answer": "1", "subject": "Algebra", "level": 1}
    tables["HuggingFaceH4/MATH-500", None, "test"] = [row]
    problem = load_problems("gsm8k", split="test")[0]
    assert problem.metadata["read_from"] == "hub:openai/gsm8k:main:test row 1"
    assert len(load_problems("gsm8k")) == 2
    assert len(load_problems("math", split="test")) == 7
    calls.clear()
    assert len(load_problems("math(subject=geometry)", split="test")) == 1
    assert len(load_problems("math500")) == 1
    assert calls == [
        ("EleutherAI/hendrycks_math", "geometry", "test", BENCHMARKS["math"].revision),
        ("HuggingFaceH4/MATH-500", None, "test", BENCHMARKS["math500"].revision),
    ]
    assert all(re.fullmatch("[0-9a-f]{40}", entry.revision) for entry in BENCHMARKS.values())


def test_a_column_that_the_hub_lacks_is_named(hub):
    hub[0]["openai/gsm8k", "main", "test"] = [{"q": "a"}]
    assert refused("gsm8k", split="test").startswith(
        "hub:openai/gsm8k:main:test row 1: column 'answer' is missing, found 'q'"
    )
    hub[0]["openai/gsm8k", "main", "test"] = []
    assert "holds no row at revision 740312add88f" in refused("gsm8k", split="test")


def test_local_copies_come_before_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / "gsm8k_test.jsonl").write_text(json.dumps(word(1)))
    assert load_problems("gsm8k", split="test")[0].answer == "1"
    assert hub[1] == []


def test_offline_the_error_says_what_to_do(hub, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", unreachable)
    assert refused("gsm8k", split="test") == (
        "hub:openai/gsm8k:main:test: the hub did not give it (ConnectionError: Couldn't reach the "
        "hub); offline, set POPULORA_DATA to a folder that holds gsm8k_test.jsonl, or say "
        "gsm8k(path='FOLDER')"
    )


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused("math500")
    assert 'pip install "populora-env[hub]"' in message
    assert "set POPULORA_DATA to a folder that holds math500.jsonl" in message
