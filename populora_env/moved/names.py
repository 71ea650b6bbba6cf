"""Where the modules that this package had in version 0.1 are now."""

from populora_env.moved import into_rooms

_OWN = {
    "chat": "chat_api=api chat_arguments=arguments chat_connection=connection chat_replies=replies",
    "episodes": "arguments episode labels matchmaking rendering rewards settlement"
    " states=observations",
    "grading": "extraction",
    "judges": "awaiting skill votes",
    "problems": "fewshot",
    "reading": "judgements no_reply numerals replies=answers said statements units",
}
_OF_PROBLEMS = {
    "drawing": "generating procedural watched",
    "files": "bounds columns escapes hub",
    "sources": "source=base spec",
}
NAMES = {
    "populora_env.spelling": "populora_env.settings",
    **into_rooms("populora_env", _OWN),
    **into_rooms("populora_env.problems", _OF_PROBLEMS),
}
