"""docs/commands.md is what the commands say of themselves."""

import os
import runpy
from pathlib import Path
from unittest import mock

SCRIPT = Path(__file__).parents[1] / "docs" / "commands.py"


def test_the_page_is_fresh():
    with mock.patch.dict(os.environ):
        page = runpy.run_path(str(SCRIPT))["page"]()
    assert SCRIPT.with_name("commands.md").read_text(encoding="utf-8") == page, (
        "write it anew: python docs/commands.py"
    )
