"""The report: a front page with the table of claims, and a page for each experiment, from what is stored."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

import fnn
from experiments.report import storage
from experiments.report.outcomes import SLIDES, Outcome

MARKS = {"holds": "✓", "holds partly": "◐", "does not hold": "✗"}


def write(folder: Path) -> Path:
    """Write the pages from all outcomes that are stored whole in the folder, in the order of the lecture.

    Returns:
        The front page's path.
    """
    outcomes = storage.outcomes(folder)
    environment = Environment(
        loader=PackageLoader("experiments.report", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = lambda text: re.sub(r"\W+", "-", text.lower()).strip("-")
    environment.filters["options"] = _options
    environment.filters["picture"] = lambda content, name, part: f"pictures/{storage.file_name(name, part, content)}"
    environment.filters["by_slide"] = lambda outcomes: groupby(outcomes, key=lambda outcome: outcome.slide)
    environment.globals |= {"slides": SLIDES, "marks": MARKS, "outcomes": outcomes, "machine": _machine()}
    folder.mkdir(parents=True, exist_ok=True)
    storage.replace(folder / "style.css", environment.get_template("style.css").render())
    page = ""
    for i, outcome in enumerate(outcomes):
        around: dict[str, Any] = {
            "before": outcomes[i - 1] if i else None,
            "after": outcomes[i + 1] if i + 1 < len(outcomes) else None,
        }
        page = environment.get_template("experiment.html.j2").render(outcome=outcome, **around)
        storage.replace(folder / f"{outcome.name}.html", page)
        storage.keep_numbers(folder, outcome)
    for name in storage.damaged(folder):
        path = folder / f"{name}.html"
        with suppress(FileNotFoundError):
            if f'href="results/{name}.json"'.encode() in path.read_bytes():
                path.unlink()  # it shows what counts as not there
    storage.replace(folder / "claims.csv", storage.claims(outcomes))
    front = folder / "index.html"
    alone = [outcome.name for outcome in outcomes] == ["own_table"]  # it has the only page
    if not alone:
        page = environment.get_template("front.html.j2").render(counted=_counted(outcomes))
    storage.replace(front, page)
    return front


def _counted(outcomes: list[Outcome]) -> dict[str, int]:
    """How many claims have each verdict."""
    words = [verdict.word for outcome in outcomes for verdict in outcome.verdicts]
    return {word: words.count(word) for word in MARKS}


def _options(command: str) -> Markup:
    """A command whose options are not broken after their hyphens."""
    return Markup(re.sub(r"(--[\w-]+)", r'<span class="whole">\1</span>', str(escape(command))))


def _machine() -> str:
    """What the numbers were measured with."""
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind} device(s), {os.cpu_count()} processor cores"
    versions = f"fnn {fnn.__version__}, JAX {jax.__version__}, Python {platform.python_version()}"
    return f"{versions}, {devices}, {date.today():%d %B %Y}"
