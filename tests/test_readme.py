"""The README's Python blocks run as they stand, one after another in one fresh process without the tests' settings."""

import importlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fnn

README = Path(fnn.__file__).parents[1] / "README.md"


def test_every_python_block_runs_and_prints_what_its_comments_say() -> None:
    fence = r"^(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)^```$"
    blocks = re.findall(fence, README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    code = "\n".join(f"exec({block!r}, {{}})" for needed, block in blocks if not needed or find_spec(needed))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for promised in ("(8, 3, 4)", "manual–diff.", "(128, 64) (128, 64)", "(128,)"):
        assert promised in done.stdout


def test_the_commands_that_ci_takes_from_the_readme_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    for name in ("experiments", "tests"):
        command = re.search(rf"<!-- command: {name} -->\n```bash\n(.+)\n```", text)
        assert command
        assert command[1].startswith("python3 -m venv .venv && .venv/bin/pip install")


def test_every_public_name_in_the_slide_table_exists() -> None:
    table = README.read_text(encoding="utf-8").split("## From slide to function")[1].split("\n## ")[0]
    for row in table.splitlines():
        module = fnn
        for name in re.findall(r"`([^`]+)`", row):
            if name.startswith("fnn."):
                module = importlib.import_module(name)
            elif (name != "fnn" and name.isidentifier()) or "(" in name or "." in name:
                assert hasattr(module, name.split("(")[0].split(".")[0]), f"{module.__name__} has no {name}"
