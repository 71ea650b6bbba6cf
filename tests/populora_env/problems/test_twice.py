"""What a file says twice, or says half."""

import json

import pytest

from populora_env.problems import ProblemSpecError, load_problems


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(name, *lines):
    with open(name, "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return name


def refused(spec):
    with pytest.raises(ProblemSpecError) as caught:
        load_problems(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


GOOD = '{"prompt": "1+1?", "answer": 2}'


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ('{"prompt": "2+2?", "answer": 4, "answer": 5}', "answer"),
        ('{"prompt": "2+2?", "prompt": "3+3?", "answer": 4}', "prompt"),
        ('{"prompt": "2+2?", "answer": 4, "answer": 4}', "answer"),
        ('{"prompt": "2+2?", "answer": 4, "\\u0061nswer": 5}', "answer"),
        ('{"prompt": "2+2?", "answer": 4, "from": {"page": 1, "page": 2}}', "page"),
        ('{"prompt": "2+2?", "answer": 4, "tags": [{"a": 1}, {"a": 1, "a": 2}]}', "a"),
    ],
)
def test_a_key_that_is_twice_in_one_object_is_named_with_its_line(record, key):
    said = refused(written("x.jsonl", GOOD, "", record))
    assert said == f"x.jsonl:3: key {key!r} is there twice: remove one"
    written("x.json", f"[{GOOD}, {record}]")
    assert refused("x.json").startswith(f"x.json: key {key!r} is there twice in {{")


def test_the_list_of_a_json_file_that_is_there_twice():
    written("x.json", f'{{"data": [{GOOD}], "data": []}}')
    assert refused("x.json").startswith("x.json: key 'data' is there twice in {'data': []}")


def test_one_key_in_several_objects_is_no_repetition():
    other = '{"prompt": "2+2?", "answer": 4, "a": {"answer": 5}, "b": [{"c": 1}, {"c": 2}]}'
    assert [p.answer for p in load_problems(written("x.jsonl", GOOD, other))] == ["2", "4"]


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ude00\\ud83d", "\\ud83d \\ude00"])
@pytest.mark.parametrize("column", ["prompt", "answer", "solution"])
def test_half_a_character_is_refused_with_its_line(half, column):
    row = {"prompt": "What is 2+2?", "answer": "It is 4"}
    if column == "solution":
        row = {"prompt": "What is 2+2?", "solution": "#### 4"}
    text = json.dumps(row).replace(row[column], f"{row[column]} {half}")
    said = refused(f"{written('x.jsonl', text)}(kind=text)")
    assert said.startswith(f"x.jsonl:1: column {column!r} must hold whole characters, got '\\ud")


def test_both_halves_of_a_character_are_one():
    text = '{"prompt": "\\ud83d\\ude00 + 1?", "answer": 2}'
    assert load_problems(written("x.jsonl", text))[0].prompt == "\U0001f600 + 1?"


CASES = ('{"prompt": "What is 2+2?", "answer": 4}', '{"prompt": "what is  2+2?", "answer": 5}')


def test_other_letters_case_and_another_answer_is_a_warning():
    with pytest.warns(UserWarning, match="its letters' case only") as said:
        assert len(load_problems(written("x.jsonl", GOOD, *CASES))) == 3
    text = str(said[0].message)
    assert text.startswith("x.jsonl:3: question 'what is 2+2?' differs from that at x.jsonl:2 ")
    assert "its answer is '5' instead of '4': remove one" in text


def test_it_is_a_warning_in_two_files_too():
    written("a.jsonl", CASES[0], GOOD)
    with pytest.warns(UserWarning, match=r"b\.jsonl:1: .* that at a\.jsonl:1 in its letters'"):
        load_problems(f"a.jsonl+{written('b.jsonl', CASES[1])}")


def test_other_letters_case_and_the_same_answer_is_no_matter(recwarn):
    load_problems(written("x.jsonl", CASES[0], CASES[1].replace("5", "4")))
    assert not recwarn.list
