"""``populora validate``: what passes, what fails, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evolution.cli import main
from populora_env.grading import Grader, WorkerError
from populora_env.problems.benchmarks import DATA_VARIABLE

SHARED = Path(__file__).parents[3] / "../shared/data"


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*rows):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "x.jsonl").write_text(text)

    return write


def error_of(capsys, *arguments):
    assert main(["validate", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    return said.err.removeprefix("populora: error: ").strip()


def test_answers_that_validate(capsys, file):
    file({"prompt": "a", "answer": 3}, {"prompt": "b", "answer": r"\frac{1}{2}"})
    assert main(["validate", "x.jsonl"]) == 0
    assert capsys.readouterr().out == "2 of 2 gold answers validate\n"


def test_answers_that_do_not_are_listed_one_a_line(capsys, file):
    rows = [{"prompt": "a", "answer": "ok"}, {"prompt": "b", "answer": "..."},
            {"prompt": "c", "answer": "both\n\nof them"}]  # fmt: skip
    file(*rows)
    assert main(["validate", "x.jsonl(kind=text)", "--json", "out.json"]) == 2
    assert "x.jsonl:2" in capsys.readouterr().err  # what is no answer at all is no row either
    file(rows[0], rows[2])
    assert main(["validate", "x.jsonl(kind=text)", "--json", "out.json"]) == 1
    failure, summary = capsys.readouterr().out.splitlines()
    assert summary == "1 of 2 gold answers validate"
    assert "(x.jsonl:2): 'both\\n\\nof them' stated as" in failure
    assert "is wrong: it is read as 'both'" in failure
    result = json.loads(Path("out.json").read_text())
    assert (result["problems"], result["valid"], len(result["failures"])) == (2, 1, 1)
    assert result["failures"][0]["status"] == "wrong"
    assert failure.startswith(result["failures"][0]["id"])


@pytest.mark.slow
def test_math_is_stated_in_a_box_as_well(capsys, file):
    file({"prompt": "a", "answer": "1} + {2"})  # braces that a box cannot hold
    assert main(["validate", "x.jsonl(kind=math)"]) == 1
    assert "stated as '\\\\boxed{1} + {2}'" in capsys.readouterr().out


def test_an_answer_that_the_grader_refuses_is_a_failure(capsys, file, monkeypatch):
    def refuse(*_):
        raise ValueError("the answer must be a number")

    monkeypatch.setattr(Grader, "grade", refuse)
    file({"prompt": "a", "answer": 3})
    assert main(["validate", "x.jsonl"]) == 1
    assert "is invalid: the answer must be a number" in capsys.readouterr().out


def test_of_a_source_without_end_200_are_looked_at(capsys):
    spec = "procedural:chain_sum(max_terms=2)"
    assert main(["validate", spec, "--seed", "3"]) == 0
    assert capsys.readouterr().out == "200 of 200 gold answers validate\n"
    assert main(["validate", spec, "--limit", "7"]) == 0
    assert capsys.readouterr().out == "7 of 7 gold answers validate\n"


def test_a_split_and_a_limit(capsys, file):
    file(*({"prompt": str(i), "answer": i} for i in range(40)))
    counts = []
    for split in ("train", "test"):
        assert main(["validate", "x.jsonl", "--split", split]) == 0
        counts.append(int(capsys.readouterr().out.split()[0]))
    assert sum(counts) == 40
    assert 0 < counts[0] < 40
    assert main(["validate", "x.jsonl", "--limit", "4"]) == 0
    assert capsys.readouterr().out.startswith("4 of 4 ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Problem spec"),
        (["nope"], "unknown problem spec 'nope'"),
        (["nope.csv"], "nope.csv: cannot be read"),
        (["x.jsonl", "--limit", "0"], "limit: got 0, expected an integer >= 1"),
        (["x.jsonl", "--timeout", "nan"], "timeout: got nan, expected a finite number > 0"),
        (["x.jsonl", "--split", "half"], "half"),
        (["x.jsonl", "--json", "no/such/file"], "json: got no/such/file, expected a file in an"),
        (["x.jsonl(answer=none)"], "none of the 1 problems of x.jsonl(answer=none) has a known"),
        (["math500", "--split", "train"], "math500 is a test set"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(capsys, file, arguments, said):
    file({"prompt": "a", "answer": 3})
    assert said in error_of(capsys, *arguments)


def test_a_grader_that_does_not_start_is_one_line(capsys, file, monkeypatch):
    def fail(*_):
        raise WorkerError("the math worker did not start")

    monkeypatch.setattr(Grader, "grade", fail)
    file({"prompt": "a", "answer": 3})
    assert error_of(capsys, "x.jsonl") == "the math worker did not start"


@pytest.mark.slow
def test_neither_torch_nor_the_hub_is_imported():
    code = (
        "import sys; from evolution.cli import main; main(['validate', 'procedural:gcd',"
        " '--limit', '2']); print({'torch', 'datasets', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 of 2 gold answers validate\nset()\n"


needs_copies = pytest.mark.skipif(not SHARED.is_dir(), reason="no local copies of the benchmarks")


@needs_copies
@pytest.mark.parametrize(("split", "n"), [("test", 1319), ("train", 7473)])
def test_every_answer_of_gsm8k_validates(capsys, monkeypatch, split, n):
    monkeypatch.setenv(DATA_VARIABLE, str(SHARED))
    assert main(["validate", "gsm8k", "--split", split]) == 0
    assert capsys.readouterr().out == f"{n} of {n} gold answers validate\n"


@needs_copies
def test_almost_every_answer_of_math500_validates(capsys, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(SHARED))
    main(["validate", "math500"])
    *failures, summary = capsys.readouterr().out.splitlines()
    valid = int(summary.split()[0])
    assert valid >= 0.995 * 500
    assert len(failures) == 500 - valid  # and each of them is listed
