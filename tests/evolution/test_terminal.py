"""What the command line shows, of whatever it is given, and whom it asks for what."""

import importlib
import io
import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from rich.table import Table

from evolution.cli import COMMANDS, main
from evolution.commands.extras import EXTRAS
from evolution.commands.help_text import read_options
from evolution.commands.play.command import PlayOptions
from evolution.commands.usage import parse
from evolution.config import RunConfig
from evolution.errors import UsageError
from evolution.runs.settings_files import read_preset
from evolution.terminal import PlainConsole
from populora_env.settings import did_you_mean, field_rules


def shell(command, **options):
    """Run a line of bash, in which $POPULORA is the command."""
    code = "import sys; from evolution.cli import main; sys.exit(main())"
    environment = {**os.environ, "PY": sys.executable, "CODE": code, "PYTHONPATH": os.getcwd()}
    line = f'populora() {{ "$PY" -c "$CODE" "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    "text",
    [
        "math(subject=[algebra,geometry],level=5)", "out/[/x]", "[bold]x[/bold]", "[red]",
        ":smile:",
        "[link=file:///x]y[/link]",
    ],
)  # fmt: skip
def test_brackets_are_shown_as_they_are(text):
    console = PlainConsole(file=io.StringIO(), width=200, force_terminal=False)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(text)
    console.print(table)
    assert console.file.getvalue().count(text) == 4


def test_a_long_text_stays_one_line():
    console = PlainConsole(file=io.StringIO(), width=20, force_terminal=False)
    console.print("a path that is longer than the terminal is wide")
    assert console.file.getvalue().count("\n") == 1


@pytest.mark.parametrize("evil", ["\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "\r", "\u202e", "\x08"])
def test_no_escape_reaches_the_terminal(evil):
    console = PlainConsole(file=io.StringIO(), width=80, force_terminal=False)
    table = Table(f"head{evil}")
    table.add_row(f"cell{evil}")
    console.print(f"line{evil}")
    console.print(table)
    assert evil not in console.file.getvalue()
    assert "line\ufffd" in console.file.getvalue()


def test_no_escape_reaches_the_terminal_in_an_error(capsys):
    assert main(["evolve", "--config", "\x1b[2Jx.toml"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evolv"], "did you mean evolve?"),
        (["bench_engine"], "did you mean bench-engine?"),
        (["evolve", "--preset", "quik"], "did you mean quick?"),
        (["evolve", "--crossover", "dare_"], "did you mean dare?"),
        (["evolve", "--mutations", "svd(strenght=1)"], "did you mean strength?"),
        (["validate", "gsm8"], "did you mean gsm8k?"),
        (["validate", "math(levels=5)"], "did you mean level?"),
        (["validate", "procedural:chain_sum(max_term=2)"], "did you mean max_terms?"),
        (["play", "--sead", "1"], "--seed"),
    ],
)
def test_a_near_name_is_hinted_at(arguments, said, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_near_setting_of_a_file_is_hinted_at(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text("generatoins = 3\n")
    assert main(["evolve", "--config", str(file)]) == 2
    assert "did you mean generations?" in capsys.readouterr().err


def test_a_far_name_gets_no_hint():
    assert did_you_mean("zebra", COMMANDS) == ""
    assert did_you_mean(7, COMMANDS) == ""


def test_a_title_is_not_repeated():
    with pytest.raises(UsageError, match=r"^Unrecognized options: --zebra"):
        parse(PlayOptions, ["--zebra"], default=PlayOptions(), prog="populora play")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--revise"], True), (["--revise", "True"], True), (["--revise=true"], True),
        (["--revise", "False"], False), (["--revise=False"], False), (["--no-revise"], False),
        ([], False),
    ],
)  # fmt: skip
def test_a_switch_may_have_its_value_behind(words, expected):
    words = [*words, "--seed", "3"]
    options = parse(PlayOptions, words, default=PlayOptions(), prog="populora play")
    assert (options.revise, options.seed) == (expected, 3)


def test_the_value_of_another_option_is_no_switch():
    options = parse(
        PlayOptions, ["--prompt", "True", "--answer=false"], default=PlayOptions(), prog="p"
    )
    assert (options.prompt, options.answer) == ("True", "false")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("populora 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_option_of_the_dataclass(command):
    _, module, name = COMMANDS[command]
    options = read_options(module, name)[1]
    expected = fields(getattr(importlib.import_module(module), name))
    assert sorted(option.name for option in options) == sorted(field.name for field in expected)
    assert all(option.words for option in options)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_range_of_a_number(command):
    _, module, name = COMMANDS[command]
    rules = field_rules(getattr(importlib.import_module(module), name))
    for option in read_options(module, name)[1]:
        if limit := rules[option.name].limit:
            assert re.search(rf" \({re.escape(str(limit))}(?:; default: [^;]+)?\)$", option.words)


def test_help_with_a_preset_shows_what_the_preset_says(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evolve", "--preset", "quick", "--help"])
    assert stop.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert f"Agents in the population. (1 to 10000; default: {read_preset('quick').size})" in words
    assert read_preset("quick").size != RunConfig().size
    assert "--matchmaking {balanced,round_robin,rating}" in words


def test_help_imports_neither_torch_nor_what_the_core_does_without():
    code = (
        "import sys\nfrom evolution.cli import COMMANDS, main\nfor command in COMMANDS:\n"
        "    try: main([command, '--help'])\n    except SystemExit as stop: assert stop.code == 0\n"
        "print('MODULES', sorted({'torch', 'rich', 'tyro', 'pettingzoo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=".")
    assert done.stdout.endswith("MODULES []\n"), done.stderr


def without(modules, *words):
    """The command where these modules are not installed."""
    code = (
        "import sys\nfrom importlib.machinery import PathFinder\nfound = PathFinder.find_spec\n"
        "PathFinder.find_spec = classmethod(lambda _, name, *rest:"
        f" None if name.partition('.')[0] in {modules} else found(name, *rest))\n"
        "from evolution.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


BARE = [module for extra in EXTRAS for module in extra.modules]


@pytest.mark.parametrize(
    ("command", "modules", "install"),
    [
        ("evolve", BARE, "'populora-env[evolve]'"),
        ("export", BARE, "'populora-env[evolve]'"),
        ("bench", BARE, "'populora-env[evolve]'"),
        ("doctor", ["numpy"], "populora-env"),
    ],
)
def test_what_is_not_installed_is_named_in_one_line(command, modules, install):
    done = without(modules, command)
    assert done.returncode == 2
    assert done.stderr.endswith(f"which is not installed; pip install {install}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("validate procedural:chain_sum --limit 2", "2 of 2 gold answers validate"),
        ("play --agents random*3", "agent_2"),
        ("doctor", "For evolution: pip install 'populora-env[evolve]'"),
    ],
)
def test_what_a_bare_installation_does(words, said):
    done = without(BARE, *words.split())
    assert done.returncode == 0, done.stderr
    assert said in " ".join(done.stdout.split())


def test_bench_asks_what_to_measure(capsys):
    assert main(["bench"]) == 2
    assert "tasks: got none" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", ["--help", "evolve --help", "bogus", "validate procedural:chain_sum --limit 2"]
)
def test_a_reader_that_leaves_is_no_fault(words, unbuffered):
    done = shell(f"(PYTHONUNBUFFERED={unbuffered} populora {words} 2>&1; echo rc $? >&2) | true")
    assert done.stderr.startswith("rc ")
    assert done.stderr.count("\n") == 1
