"""Problems out of files, and sources put together."""

import csv
import json
import sys

import pytest

from populora_env.problems import ProblemSpecError, check_disjoint, load_problems, split_of
from populora_env.problems.files.columns import last_boxed
from populora_env.problems.mixture import MixtureSource
from populora_env.records import AnswerKind
from populora_env.testing import check_problem_source


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the working folder; return its name."""
    monkeypatch.chdir(tmp_path)

    def to(name, content):
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        return name

    return to


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def sums(n, start=0):
    return [{"prompt": f"{i} + 1 = ?", "answer": i + 1} for i in range(start, start + n)]


def refused(spec, **arguments):
    with pytest.raises(ProblemSpecError) as caught:
        load_problems(spec, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("options", ["", "(kind=number)", "(kind=math)"])
def test_an_answer_may_be_a_rationale_that_ends_in_a_box(write, options):
    rows = [
        {"question": "1 + 1", "answer": r"We add, so \boxed{2}"},
        {"question": "2", "answer": "2"},
    ]
    source = load_problems(write("x.jsonl", lines(*rows)) + options)
    assert [problem.answer for problem in source] == ["2", "2"]
    assert source[0].metadata["solution"] == rows[0]["answer"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.parquet"])
def test_the_same_rows_in_every_format_are_the_same_problems(write, name):
    rows = [{"question": f"{i} halves, «ü», a\nb", "solution": f"#### {i / 2}", "from": "x"}
            for i in range(5)]  # fmt: skip
    if name == "x.jsonl":
        write(name, lines(*rows))
    elif name == "x.json":
        write(name, json.dumps({"data": rows}))
    elif name == "x.csv":
        with open(name, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), name)
    source = load_problems(name)
    assert [problem.answer for problem in source] == ["0.0", "0.5", "1.0", "1.5", "2.0"]
    assert source[3].prompt == rows[3]["question"]
    assert source[0].answer_kind is AnswerKind.NUMBER
    assert source[0].source == f"file:{name}"
    assert source[0].metadata["solution"] == "#### 0.0"
    assert source[0].metadata["from"] == "x"
    check_problem_source(source)


def test_where_a_problem_was_read_is_known_without_the_folder(write, tmp_path):
    write("x.jsonl", "\n" + lines(*sums(2)))
    write("x.csv", 'prompt,answer\n"two\nlines",1\nb,2\n')
    write("x.json", json.dumps(sums(2)))
    spec = str(tmp_path / "x.jsonl")
    assert [entry.metadata["read_from"] for entry in load_problems(spec)] == [
        "x.jsonl:2", "x.jsonl:3"
    ]  # fmt: skip
    assert [entry.metadata["read_from"] for entry in load_problems("x.csv")] == [
        "x.csv:2", "x.csv:4"
    ]  # fmt: skip
    assert load_problems("x.json")[1].metadata["read_from"] == "x.json row 2"


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_decimals_are_what_was_written(write, name):
    row = '{"prompt": "%s", "answer": %s, "note": 0.10}'
    rows = [row % (place, a) for place, a in enumerate(["123456789012345678.5", "0.50", "1.5e2"])]
    write(name, "\n".join(rows) if name == "x.jsonl" else f"[{','.join(rows)}]")
    source = load_problems(name)
    assert [problem.answer for problem in source] == ["123456789012345678.5", "0.5", "150"]
    assert all(problem.answer_kind is AnswerKind.NUMBER for problem in source)
    assert source[0].metadata["note"] == 0.1
    assert type(json.loads(json.dumps(source[0].metadata))["note"]) is float
    for lost in ("1e-400", "1e999"):  # neither is 0, nor infinite
        write(name, row % (0, lost) if name == "x.jsonl" else f"[{row % (0, lost)}]")
        with pytest.raises(ProblemSpecError, match="column 'answer' must hold"):
            load_problems(name)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_header_that_is_parted_by_no_comma_is_said_to_be(write, mark):
    write("x.csv", f"question{mark}answer\nWhat is 1+1?{mark}2\n")
    with pytest.raises(ProblemSpecError, match=r"parted by .*, expected ',': save the file with"):
        load_problems("x.csv")


def test_narrow_floats_are_their_own_digits(write):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    answers = {"answer": arrow.array([0.1, 0.2], arrow.float32()), "prompt": ["a", "b"]}
    pyarrow.parquet.write_table(arrow.table(answers), "x.parquet")
    assert [problem.answer for problem in load_problems("x.parquet")] == ["0.1", "0.2"]


def test_byte_order_mark_crlf_blank_lines_and_separators_inside_texts(write):
    rows = [{"prompt": "a\u2028b", "answer": 1}, {"prompt": "c\x85d", "answer": 2}]
    text = "\r\n \r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write("x.jsonl", b"\xef\xbb\xbf" + text.encode())
    assert [entry.prompt for entry in load_problems("x.jsonl")] == ["a\u2028b", "c\x85d"]
    write("x.csv", b"\xef\xbb\xbfprompt,answer\r\n\r\na\xe2\x80\xa8b,1\r\n\r\nc,2\r\n")
    assert [entry.prompt for entry in load_problems("x.csv")] == ["a\u2028b", "c"]


def test_csv_fields_may_be_huge_and_the_limit_of_the_process_stays(write):
    before = csv.field_size_limit()
    write("x.csv", f"prompt,answer\n{'x' * 300_000},1\n")
    assert len(load_problems("x.csv")[0].prompt) == 300_000
    assert csv.field_size_limit() == before


def test_columns_are_mapped_by_option(write):
    write("x.csv", "question,text,gold value,key\nwrong,right,Paris,a\nwrong,other,Rome,b\n")
    spec = "x.csv(prompt=text, answer='gold value', kind=text, id=key)"
    first = load_problems(spec)[0]
    assert (first.prompt, first.answer, first.answer_kind) == ("right", "Paris", AnswerKind.TEXT)
    assert first.metadata == {"question": "wrong", "key": "a", "read_from": "x.csv:2"}


def test_answers_are_numbers_if_all_are_and_else_mathematics(write):
    values = [3, 2.5, 1e20, "1,234", "$18"]
    write("x.jsonl", lines(*({"prompt": str(v), "answer": v} for v in values)))
    source = load_problems("x.jsonl")
    answers = [entry.answer for entry in source]
    assert answers == ["3", "2.5", "100000000000000000000", "1,234", "$18"]
    assert {entry.answer_kind for entry in source} == {AnswerKind.NUMBER}
    write("y.jsonl", lines({"prompt": "a", "answer": 3}, {"prompt": "b", "answer": "x + 1"}))
    assert {entry.answer_kind for entry in load_problems("y.jsonl")} == {AnswerKind.MATH}


def test_answers_may_be_unknown_if_that_is_said(write):
    write("x.jsonl", lines({"prompt": "a"}, {"prompt": "b"}))
    assert [entry.answer for entry in load_problems("x.jsonl(answer=none)")] == [None, None]
    assert "answer=none if no answer is known" in refused("x.jsonl")
    write("y.jsonl", lines({"prompt": "a", "answer": 1}, {"prompt": "b", "answer": None}))
    assert refused("y.jsonl") == (
        "y.jsonl:2: column 'answer' must hold a text or a number, got nothing; answer=none if no "
        "answer is known"
    )


@pytest.mark.parametrize(
    ("solution", "boxed"),
    [
        (r"so \boxed{1} or $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"$\boxed 3$ apples", "3"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\left\{ 1, 2 \right\}}", r"\left\{ 1, 2 \right\}"),
        (r"\boxed{1", None),
        ("none", None),
        (r"\boxed{}", None),
    ],
)
def test_the_last_box_is_the_answer(solution, boxed):
    assert last_boxed(solution) == boxed


BROKEN = [
    ("x.jsonl", "", "x.jsonl: holds no row"),
    ("x.jsonl", "\n \n", "x.jsonl: holds no row"),
    ("x.csv", "prompt,answer\n", "x.csv: holds no row"),
    ("x.json", "[]", "x.json: holds no row"),
    ("x.json", "", "x.json: holds no row"),
    ("x.jsonl", lines(*sums(730)) + '{"prompt": "a"\n', "x.jsonl:731: not JSON"),
    ("x.jsonl", "[1]\n", "x.jsonl:1: must be a JSON object, got [1]"),
    ("x.jsonl", "[" * 100_000, "x.jsonl:1: not JSON"),
    ("x.jsonl", b'{"prompt": "a",\n"\xff": 1}', "x.jsonl:2: not UTF-8 (byte 0xff)"),
    ("x.json", '[{"prompt": "a"},\n]', "x.json:2: not JSON"),
    ("x.json", lines(*sums(2)), "an object a line belongs in a .jsonl file"),
    ("x.json", '{"rows": []}', "x.json: must hold a list of objects"),
    ("x.json", "[3]", "x.json row 1: must be a JSON object, got 3"),
    ("x.csv", "prompt,answer\na,1\nb,2,3\n", "x.csv:3: 3 cells, expected 2"),
    ("x.csv", "prompt,prompt\na,1\n", "x.csv:1: column 'prompt' is there twice"),
    ("x.csv", 'prompt,answer\na,1\n"b\nc,2\n', "x.csv:3: not CSV"),
    ("x.csv", "prompt,answer\na,1\nb,\n", "x.csv:3: column 'answer' must hold"),
    ("x.jsonl", lines({"text": "a", "answer": 1}),
     "x.jsonl:1: column 'prompt' or 'question' or 'problem' is missing, found 'text', 'answer'"),
    ("x.jsonl", lines(*sums(1), {"prompt": "b"}), "x.jsonl:2: column 'answer' is missing, found"),
    ("x.jsonl", lines(*sums(1), {"prompt": " ", "answer": 1}),
     "x.jsonl:2: column 'prompt' must hold a text, got nothing"),
    ("x.jsonl", lines({"prompt": 3, "answer": 1}), "column 'prompt' must hold a text, got 3"),
    ("x.jsonl", lines({"prompt": "a", "answer": float("nan")}), "must hold a text or a number"),
    ("x.jsonl", lines({"prompt": "a", "answer": float("inf")}), "got inf"),
    ("x.jsonl", lines({"prompt": "a", "answer": True}), "got True"),
    ("x.jsonl", lines({"prompt": "a", "answer": ["1"]}), "got ['1']"),
    ("x.jsonl", lines({"prompt": "a", "solution": "it is 3"}), "its answer in \\boxed{}"),
    ("x.jsonl", lines(*sums(3), sums(3)[1]), "x.jsonl:4: problem "),
    ("x.parquet", "no parquet", "x.parquet: not a Parquet file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), BROKEN)
def test_a_broken_file_is_refused_with_its_line_and_column(write, name, content, said):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    assert said in refused(write(name, content))


def test_a_problem_that_is_there_twice_is_named_with_both_lines(write):
    write("x.jsonl", lines(*sums(3), sums(3)[1]))
    message = refused("x.jsonl")
    assert message.startswith("x.jsonl:4: ")
    assert "first at x.jsonl:2" in message
    write("y.csv", "prompt,answer,key\na,1,k\nb,2,l\nc,3,k\n")
    assert len(load_problems("y.csv")) == 3
    said = "y.csv:4: column 'key' holds 'k' again, first at y.csv:2: remove one"
    assert refused("y.csv(id=key)") == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("(kind=number)", "x.jsonl:1: column 'answer' must hold an answer of kind number, got 'x'"),
        ("(kind=word)", "kind must be one of number, math, text, literal, code, got 'word'"),
        ("(prompts=a)", "unknown option 'prompts', expected prompt, answer, kind, id"),
        ("(prompt=3)", "option prompt must be the name of a column, got 3"),
        ("(prompt=none)", "option prompt must be the name of a column, got None"),
        ("(prompt=text)", "x.jsonl:1: column 'text' is missing, found 'prompt', 'answer'"),
        ("(id=key)", "x.jsonl:1: column 'key' is missing"),
        ("(prompt)", "options must have the form"),
        ("(prompt=a", "unknown problem spec"),
    ],
)
def test_bad_options_are_named(write, options, said):
    write("x.jsonl", lines({"prompt": "a", "answer": "x"}))
    assert said in refused(f"x.jsonl{options}")


def test_a_file_that_is_not_there_is_named(write, tmp_path):
    assert refused("no/where.csv") == (
        "no/where.csv: cannot be read (No such file or directory): check the path"
    )
    (tmp_path / "x.json").mkdir()
    assert "x.json: cannot be read (Is a directory)" in refused("x.json")
    assert "a path ending in .jsonl" in refused("x.txt")


def test_without_pyarrow_a_parquet_file_says_what_to_install(write, monkeypatch):
    write("x.parquet", "")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert 'pip install "populora-env[hub]"' in refused("x.parquet")


def test_an_existing_file_is_read_whatever_its_name_looks_like(write):
    name = write("a+2*b(x).jsonl", lines(*sums(2)))
    assert len(load_problems(name)) == 2


def test_splits_of_a_file_are_disjoint_and_make_up_the_whole(write):
    write("x.jsonl", lines(*sums(60)))
    train, test = (load_problems("x.jsonl", split=split) for split in ("train", "test"))
    check_disjoint(train, test)
    assert {*train, *test} == {*load_problems("x.jsonl")}
    assert {split_of(problem) for problem in test} == {"test"}
    assert load_problems("x.jsonl", split="test", seed=1)[0] == test[0]
    write("y.jsonl", lines(*sums(1)))
    other = "test" if split_of(load_problems("y.jsonl")[0]) == "train" else "train"
    assert f"none of its 1 problems is in split {other}" in refused("y.jsonl", split=other)


def test_a_limit_keeps_the_first(write):
    write("x.jsonl", lines(*sums(5)))
    assert [entry.answer for entry in load_problems("x.jsonl", limit=2)] == ["1", "2"]
    assert len(load_problems("x.jsonl", limit=9)) == 5
    with pytest.raises(ValueError, match="limit must be None or at least 1, got 0"):
        load_problems("x.jsonl", limit=0)


def test_files_are_put_together_and_what_both_hold_counts_once(write):
    write("x.jsonl", lines(*sums(5)))
    write("y.jsonl", lines(*sums(5, start=3)))
    both = load_problems("x.jsonl+y.jsonl(prompt=prompt)")
    assert [entry.answer for entry in both] == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert both.spec == "x.jsonl+y.jsonl(prompt=prompt)"


@pytest.mark.slow
def test_with_weights_or_procedural_problems_sources_are_drawn(write):
    write("x.jsonl", lines(*sums(5)))
    mixed = load_problems("3*x.jsonl + procedural:chain_sum+gcd", seed=1)
    assert isinstance(mixed, MixtureSource)
    drawn = [mixed[at].source for at in range(500)]
    assert 250 < drawn.count("file:x.jsonl") < 350
    assert {"procedural:chain_sum", "procedural:gcd"} < set(drawn)
    assert mixed[7] == load_problems(mixed.spec, seed=1)[7]
    assert [load_problems(mixed.spec, seed=2)[at].source for at in range(500)] != drawn
    found = mixed.distinct(60)  # the file is soon exhausted and must not block the rest
    assert sum(entry.source == "file:x.jsonl" for entry in found) == 5
    assert len(load_problems(mixed.spec, limit=7)) == 7
    train, test = (load_problems(mixed.spec, split=split) for split in ("train", "test"))
    check_problem_source(train, test)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("0*x.jsonl", "weight must be above 0, got 0"),
        ("x.jsonl+", "unknown problem spec"),
        ("x.jsonl+y", "unknown problem spec"),
        ("procedural:chain_sum+x.jsonl+nope", "unknown procedural problem 'nope'"),
        ("x.jsonl" + "a" * 5000, "at most 4000 characters"),
    ],
)
def test_bad_mixtures_are_refused(write, spec, said):
    write("x.jsonl", lines(*sums(60)))
    assert said in refused(spec)
