"""Problem files of strangers: damaged, doubled, nested and far too large."""

import csv
import io
import json
import os
import random
import subprocess
import sys
import time
import warnings

import pytest

from populora_env.problems import ProblemSpecError, SequenceSource, load_problems, split_of
from populora_env.problems.fewshot import PRESETS
from populora_env.problems.files.bounds import DEPTH_LIMIT, FILE_LIMIT
from populora_env.records import AnswerKind, Problem


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return name


def refused(spec):
    with pytest.raises(ProblemSpecError) as caught:
        load_problems(spec)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2_000
    return str(caught.value)


def rows(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


EATEN = (
    r"\frac{1}{2}", r"\theta", r"2\times 3", r"\rho", r"\nabla f", r"\neq 3", r"x\ne 3", r"\beta",
    r"\tan x", r"\nu", r"\text{(A)}", r"\begin{x}", r"(a\right)", r"a\to b", r"\tfrac12",
)  # fmt: skip


@pytest.mark.parametrize("answer", EATEN)
def test_a_backslash_that_json_has_eaten_is_named_with_its_line(answer):
    good = rows({"prompt": "p", "answer": 1})
    write("x.jsonl", f'{good}{{"prompt": "q", "answer": "{answer}"}}\n')
    said = refused("x.jsonl")
    assert said.startswith("x.jsonl:2: column 'answer'")
    assert "written twice" in said
    write("y.jsonl", good + rows({"prompt": "q", "answer": answer}))
    if "egin" not in answer:
        assert load_problems("y.jsonl")[1].answer == answer


@pytest.mark.parametrize("prompt", ["Is \x00 here?", "5 \x08eta", "a \x1b[31m b", "a\x7f", "\x9d"])
def test_control_characters_of_a_prompt_are_refused(prompt):
    write("x.jsonl", rows({"prompt": prompt, "answer": 1}))
    assert "x.jsonl:1: column 'prompt' must hold no control character" in refused("x.jsonl")


def test_tabs_and_ends_of_lines_of_ordinary_texts_stay():
    prompts = ["a\tb\n1\t2", "x\to\tx\n\tan apple", "Let\nu = 3,\r\ne = 2", "a\x85b\u2028c"]
    write("x.jsonl", rows(*({"prompt": text, "answer": 1} for text in prompts)))
    assert [problem.prompt for problem in load_problems("x.jsonl")] == prompts
    write("y.jsonl", rows({"prompt": "p", "answer": "first\nand second"}))
    assert load_problems("y.jsonl(kind=text)")[0].answer == "first\nand second"


def test_white_space_at_the_ends_makes_no_other_problem():
    texts = ["What is 2+2?", "What is 2+2? ", "\n What is 2+2?\t\r\n"]
    found = []
    for text in texts:
        write("x.jsonl", rows({"prompt": text, "answer": "4"}))
        found.append(load_problems("x.jsonl")[0])
    assert {problem.id for problem in found} == {Problem.create("What is 2+2?", "4").id}
    assert len({split_of(problem) for problem in found}) == 1


@pytest.mark.parametrize(
    ("second", "answer", "said"),
    [
        ("Was ist 2+2?", "4", "is there again, first at x.jsonl:1"),
        (
            "Was  ist\n2+2?",
            "4",
            "is there again but for its white space or Unicode form, first at x.jsonl:1",
        ),
        ("Was ist 2+2? ", "5", "with the answer '5' instead of '4', first at x.jsonl:1"),
    ],
)
def test_a_question_that_is_there_twice_is_refused(second, answer, said):
    first = {"prompt": "Was ist 2+2?", "answer": "4"}
    write("x.jsonl", rows(first, {"prompt": second, "answer": answer}))
    assert said in refused("x.jsonl")


def test_values_inside_columns_can_be_named():
    entry = {
        "prompt": [{"role": "user", "content": "What is 2+2?"}],
        "reward_model": {"style": "rule", "ground_truth": "4"},
    }
    write("x.jsonl", rows(entry))
    names = "(prompt=prompt[0].content,answer=reward_model.ground_truth)"
    problem = load_problems("x.jsonl" + names)[0]
    assert (problem.prompt, problem.answer) == ("What is 2+2?", "4")
    assert "there is no 'truth' inside it" in refused("x.jsonl" + names.replace("ground_", ""))
    assert "missing" in refused("x.jsonl" + names.replace("[0]", "[1]"))
    write("y.jsonl", rows({"prompt": "p", "a.b": 1, "a": {"b": 2}}))
    assert load_problems("y.jsonl(answer=a.b)")[0].answer == "1"


@pytest.mark.parametrize("digits", [301, 5_000])
def test_a_number_of_too_many_digits_is_called_so(digits):
    for value in ("7" * digits, f'"{"7" * digits}"', f'"-{"7" * digits}.5"'):
        write("x.jsonl", f'{{"prompt": "p", "answer": {value}}}')
        assert f"holds a number of {digits + ('.5' in value)} digits" in refused("x.jsonl")
    write("x.jsonl", f'{{"prompt": "p", "answer": {"7" * digits}}}')
    assert load_problems("x.jsonl(kind=text)")[0].answer == "7" * digits


def test_one_answer_that_makes_a_file_of_numbers_mathematical_is_named():
    write(
        "x.jsonl", rows(*({"prompt": str(i), "answer": "N/A" if i == 4 else i} for i in range(9)))
    )
    with pytest.warns(UserWarning, match=r"x\.jsonl:5: the answer 'N/A'.*1 of 9"):
        found = load_problems("x.jsonl")
    assert {problem.answer_kind for problem in found} == {AnswerKind.MATH}


_TOO_LARGE = {
    "values.json": "[" + "{}," * 3_000_000 + "{}]",
    "values.jsonl": "{}\n" * 5_000_000,
    "values.csv": "prompt,answer\n" + "," * 5_000_000,
    "deep.json": '[{"prompt": "p", "x": ' + "[" * 200 + "]" * 200 + "}]",
    "deeper.json": "[" * 100_000 + "]" * 100_000,
    "deeper.jsonl": '{"a":' * 100_000,
    "text.jsonl": '{"prompt": "' + "ab " * 1_000_000 + '", "answer": 1}',
    "wide.csv": ",".join(f"c{i}" for i in range(100_000)) + "\n" + "1," * 99_999 + "1\n",
    "twice.csv": ",".join(["c" * 500] * 100_000) + "\n",
    "wide.jsonl": json.dumps({f"c{i}": 1 for i in range(100_000)}),
    "bytes.jsonl": b" " * (FILE_LIMIT + 1),
}
_MEASURED = """
import sys, time
from tests.conftest import memory_peak
from populora_env.problems import ProblemSpecError, load_problems
for name in sys.argv[1:]:
    started = time.process_time()
    try:
        load_problems(name)
    except ProblemSpecError as error:
        assert len(str(error)) < 2000, name
    else:
        raise AssertionError(name)
    print(name, time.process_time() - started)
print("peak", memory_peak() / 2**20)
"""


def measured(*names):
    """Load files that are refused, in a process of their own; return seconds each and MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *names],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: float(value) for name, value in map(str.split, done.stdout.splitlines())}


@pytest.mark.slow
def test_files_that_are_too_large_are_refused_in_bounded_time_and_memory():
    for name, content in _TOO_LARGE.items():
        write(name, content)
    found = measured(*_TOO_LARGE)
    assert found.pop("peak") < 1024
    assert max(found.values()) < 5, found


@pytest.mark.slow
def test_a_small_parquet_file_of_a_huge_table_is_refused():
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    text = arrow.array(["x" * 1_000_000])
    indices = arrow.array([0] * 2_400, arrow.int32())
    column = arrow.DictionaryArray.from_arrays(indices, text)
    table = arrow.table({"prompt": column, "answer": ["1"] * 2_400})
    pyarrow.parquet.write_table(table, "x.parquet", compression="zstd")
    assert os.path.getsize("x.parquet") < 100_000
    found = measured("x.parquet")
    assert found["peak"] < 1024
    assert found["x.parquet"] < 5


def test_a_pipe_is_no_file():
    os.mkfifo("x.jsonl")
    assert "must be a regular file" in refused("x.jsonl")


def test_nesting_that_can_be_stored_is_read():
    nested: object = 1
    for _ in range(DEPTH_LIMIT - 1):
        nested = [nested]
    write("x.jsonl", rows({"prompt": "p", "answer": 1, "x": nested}))
    assert load_problems("x.jsonl")[0].metadata["x"] == nested


def test_no_problem_is_an_example_for_itself():
    train = [
        Problem.create(f"{i} + 1?", str(i + 1), metadata={"solution": f"It is {i + 1}."})
        for i in range(12)
    ]
    asked = PRESETS["gsm8k-5shot-v1"].prompts(train * 5, SequenceSource(train))
    for problem, prompt in zip(train * 5, asked, strict=True):
        parts = [part.split("\n")[0] for part in prompt.split("Question: ")[1:]]
        assert len(parts) == len(set(parts)) == 6
        assert parts[-1] == problem.prompt


def damaged(data, rng):
    """Return bytes with some of them changed, removed or doubled."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(found) + 1)
        choice = rng.randrange(4)
        if choice == 0:
            found[at:at] = bytes(rng.choice(b'\x00\\"{}[],\n\r\xff0-e.#') for _ in range(3))
        elif choice == 1:
            del found[at : at + rng.randint(1, 9)]
        elif choice == 2 and at < len(found):
            found[at] = rng.randrange(256)
        else:
            found[at:at] = found[at : at + 40] * rng.randint(1, 30)
    return bytes(found)


def test_damaged_files_are_read_or_refused_in_one_line():
    rng = random.Random(5)
    entries = [{"prompt": f"What is {i}?", "answer": f"{i}", "x": [{"y": i}]} for i in range(6)]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["prompt", "answer"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(entries)
    files = {
        "x.jsonl": rows(*entries).encode(),
        "x.json": json.dumps(entries).encode(),
        "x.csv": text.getvalue().encode(),
    }
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        pass
    else:
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(entries), buffer)
        files["x.parquet"] = buffer.getvalue()
    started = time.process_time()
    for name, content in files.items():
        for _ in range(100):
            write(name, damaged(content, rng))
            said = ""
            try:
                with warnings.catch_warnings(action="ignore"):
                    load_problems(name)
            except ProblemSpecError as error:
                said = str(error)
            assert "\n" not in said
            assert len(said) < 2_000
    assert time.process_time() - started < 60


def line(question, answer):
    return json.dumps({"question": question, "answer": answer}) + "\n"


FILLER = "".join(line(f"What is {i} + {i}?", str(2 * i)) for i in range(30, 50))


@pytest.mark.parametrize("spec", ["a.jsonl+b.jsonl", "2*a.jsonl+b.jsonl", "a.jsonl+b.jsonl+abs"])
@pytest.mark.parametrize("split", [None, "train", "test"])
def test_files_that_contradict_each_other_are_refused(spec, split):
    write("a.jsonl", line("What is 2+2?", "4") + FILLER)
    write("b.jsonl", line("What is 3+3?", "6") + line("What is  2+2?", "5"))
    spec = spec.replace("abs", "procedural:chain_sum")
    with pytest.raises(ProblemSpecError) as caught:
        load_problems(spec, split=split)
    said = str(caught.value)
    assert "with the answer '5' instead of '4'" in said
    assert "a.jsonl" in said
    assert "b.jsonl" in said


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (line("What is  2+2?", "4"), "but for its white space"),
        (line("What is 2+2?", "4.0"), "with the answer '4.0' instead of '4'"),
        (line("What is 2+2?", "4") + line("simplify?", "x+1"), "as math instead of number"),
    ],
)
def test_a_question_in_two_forms_in_two_files_is_refused(other, said):
    write("a.jsonl", line("What is 2+2?", "4"))
    write("b.jsonl", other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert said in refused("a.jsonl+b.jsonl")


def test_a_question_of_two_files_with_one_answer_counts_once():
    write("a.jsonl", line("What is 2+2?", "4") + FILLER)
    write("b.jsonl", line("What is 2+2?", "4") + line("What is 3+3?", "6"))
    assert len(load_problems("a.jsonl+b.jsonl")) == 22
