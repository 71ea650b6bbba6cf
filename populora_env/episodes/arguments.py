"""Checks of the arena's arguments; each raises an error that names the argument and the fix."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from populora_env.reading.forms import FORMS
