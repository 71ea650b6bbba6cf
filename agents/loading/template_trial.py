"""A chat template is a program that came with a model: it is tried where it can be killed.

Jinja's sandbox keeps it from files and from Python's insides, but not from time and memory:
``{{ 'x' * 10**10 }}`` is one line. So whoever loads a model has its template write some prompts in
a process of its own first. Not covered: a template that runs wild on some later prompt only.
"""

import json
import signal
import subprocess
import sys
from functools import lru_cache
from typing import Any

from agents.prompts import PromptError

_SECONDS = 2  # of the processor's time, or one less
_PATIENCE = 60  # seconds until it has had that much, on a machine with a lot to do
_BYTES = 1 << 29
_MOST_WRITTEN = 1 << 18  # characters beside the prompts; those of real templates are a few thousand

# What it is rendered by is made as Transformers makes it. A template's own fault ends a trial, not
# the load: it is said where the template is used.
_TRIAL = """
import json, resource, sys
seconds, room, path, template, chats, names = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
sys.path[:] = path
import jinja2, jinja2.ext, jinja2.sandbox
seconds += int(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))

class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)

def fail(message):
    raise jinja2.TemplateError(message)

world = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
world.filters["tojson"] = lambda value, **options: json.dumps(value, **options)
world.globals.update(raise_exception=fail, strftime_now=str)
more = 0
try:
    made = world.from_string(template)
    for chat in chats:
        written = made.render(
            messages=chat, add_generation_prompt=chat[-1]["role"] == "user", tools=None,
            documents=None, **names,
        )
        more = max(more, len(written) - sum(len(turn["content"]) for turn in chat))
except MemoryError:
    more = -1
except Exception:
    pass
print(more)
"""
_CHATS = [
    [{"role": "user", "content": "a"}],
    [{"role": "user", "content": "Is 3 < 5 & 7 > 6?  Say \"Yes\" or 'No':\n" * 50}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "reply"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": "a"},
    ],
]


def try_template(tokenizer: Any) -> None:
    """Check that a tokenizer's chat template ends, in little time and memory.

    Raises:
        PromptError: If it does not, or writes very much around a prompt.
    """
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError:  # there is none, or none of several is the default
        return
    names = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    if fault := _fault(template, json.dumps(names)):
        raise PromptError(
            f"chat template: {fault} to write a prompt of a few letters; expected one that writes "
            "it at once; set tokenizer.chat_template to one"
        )


@lru_cache(maxsize=64)
def _fault(template: str, names: str) -> str:
    """What is wrong with a template's time and memory; empty if nothing is."""
    path = [entry for entry in sys.path if entry]
    asked = json.dumps([_SECONDS, _BYTES, path, template, _CHATS, json.loads(names)])
    try:
        run = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRIAL],
            input=asked.encode(), capture_output=True, timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"takes over {_PATIENCE} s"
    if -run.returncode in (signal.SIGXCPU, signal.SIGKILL):
        return f"takes over {_SECONDS} s"
    if run.returncode or int(run.stdout) < 0:
        return f"takes over {_BYTES >> 20} MiB"
    if int(run.stdout) > _MOST_WRITTEN:
        return f"takes {int(run.stdout):,} characters, of at most {_MOST_WRITTEN:,},"
    return ""
