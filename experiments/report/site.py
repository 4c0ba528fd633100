"""The report, from what is stored: a front page, all claims, a page for each experiment, and one to try methods on."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Iterable
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
from experiments.report.forest import forest
from experiments.report.mathematics import displayed, prose
from experiments.report.outcomes import SLIDES, Case, Outcome, Verdict, Word

MARKS = {Word.HOLDS: "✓", Word.PARTLY: "◐", Word.OPEN: "○", Word.FAILS: "✗"}
PLURALS = {Word.HOLDS: "hold", Word.PARTLY: "hold partly", Word.OPEN: "are open", Word.FAILS: "do not hold"}
SINGULARS = PLURALS | {
    Word.HOLDS: "holds",
    Word.PARTLY: "holds partly",
    Word.OPEN: "is open",
    Word.FAILS: "does not hold",
}
FEATURED = {
    "comparison": "Seven methods go down a valley, leave a saddle and shake in a noisy bowl.",
    "vanishing": "How much of the gradient reaches the first layers of a deep network.",
    "digits": "How far off a learning rate may be, for each method.",
    "pruning": "How many links a network can lose, by three ways of choosing them.",
}
"""The pictures of the front page, each with its sentence."""
FOUND = ("backprop", "cybenko", "momentum", "pruning")
"""The experiments whose first claim that holds is on the front page."""
SURPRISING = ("initialization", "clipping", "local_minima", "kolmogorov", "saliency", "comparison")
"""The experiments whose first claim that does not hold is on the front page."""
EXPLORER = "explorer.json"
"""The file of an outcome that the page to try methods on is made of."""


def write(folder: Path) -> Path:
    """Write the pages from all outcomes that are stored whole in the folder, in the order of the lecture.

    Returns:
        The front page's path.
    """
    outcomes = storage.outcomes(folder)
    explorer = next((outcome for outcome in outcomes if EXPLORER in outcome.files), None)
    environment = _environment(outcomes, explorer)
    folder.mkdir(parents=True, exist_ok=True)

    def page(name: str, template: str, **given: Any) -> Path:
        path = folder / name
        storage.replace(path, environment.get_template(template).render(**given))
        return path

    page("style.css", "style.css")
    for i, outcome in enumerate(outcomes):
        before = outcomes[i - 1] if i else None
        after = outcomes[i + 1] if i + 1 < len(outcomes) else None
        page(f"{outcome.name}.html", "experiment.html.j2", outcome=outcome, before=before, after=after)
        storage.keep_numbers(folder, outcome)
    _remove_damaged(folder)
    storage.replace(folder / "claims.csv", storage.claims(outcomes))
    counted = _counted(outcomes)
    page("claims.html", "claims.html.j2", counted=counted)
    if explorer:
        data = explorer.files[EXPLORER].decode("utf-8").replace("<", "\\u003c")  # which could end the script
        page("explore.html", "explore.html.j2", data=Markup(data), of=explorer)
        page("explore.js", "explore.js")
    if len(outcomes) == 1 and outcomes[0].about:  # the page about the user's own is the only one
        return page("index.html", "experiment.html.j2", outcome=outcomes[0], before=None, after=None)
    return page("index.html", "front.html.j2", counted=counted, **_story(outcomes))


def _story(outcomes: list[Outcome]) -> dict[str, Any]:
    """What the front page tells: pictures, claims that held and claims that did not, and what of the user's own."""
    by_name = {outcome.name: outcome for outcome in outcomes}

    def first(names: Iterable[str], words: tuple[Word, ...]) -> list[tuple[Outcome, Verdict]]:
        found = (
            (by_name[name], v) for name in names if name in by_name for v in by_name[name].verdicts if v.word in words
        )
        return list({outcome.name: (outcome, verdict) for outcome, verdict in reversed(list(found))}.values())[::-1]

    pictured = [(by_name[name], sentence) for name, sentence in FEATURED.items() if name in by_name]
    return {
        "featured": [(outcome, said) for outcome, said in pictured if outcome.animations or outcome.figures],
        "found": first(FOUND, (Word.HOLDS,)),
        "surprises": first(SURPRISING, (Word.FAILS, Word.PARTLY)),
        "about": next((outcome.about for outcome in outcomes if outcome.about), ""),
    }


def _environment(outcomes: list[Outcome], explorer: Outcome | None) -> Environment:
    environment = Environment(
        loader=PackageLoader("experiments.report", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "anchor": lambda text: re.sub(r"\W+", "-", text.lower()).strip("-"),
        "by_slide": lambda outcomes: groupby(outcomes, key=lambda outcome: outcome.slide),
        "case_mark": lambda case: MARKS[_word(case)],
        "case_word": lambda case: str(_word(case)),
        "displayed": displayed,
        "file": lambda content, name, part: f"pictures/{storage.file_name(name, part, content)}",
        "forest": forest,
        "in_words": _in_words,
        "options": _options,
        "plural": lambda word, count: (SINGULARS if count == 1 else PLURALS)[word],
        "prose": prose,
    }
    environment.globals |= {
        "slides": SLIDES,
        "marks": MARKS,
        "outcomes": outcomes,
        "machine": _machine(),
        "explorer": explorer.name if explorer else None,
    }
    return environment


def _remove_damaged(folder: Path) -> None:
    """Remove the pages that show what counts as not there."""
    for name in storage.damaged(folder):
        path = folder / f"{name}.html"
        with suppress(FileNotFoundError):
            if f'href="results/{name}.json"'.encode() in path.read_bytes():
                path.unlink()


def _word(case: Case) -> Word:
    return {True: Word.HOLDS, None: Word.OPEN, False: Word.FAILS}[case.holds]


def _counted(outcomes: list[Outcome]) -> dict[Word, int]:
    """How many claims have each verdict."""
    words = Counter(verdict.word for outcome in outcomes for verdict in outcome.verdicts)
    return {word: words[word] for word in MARKS}


def _in_words(words: list[Word]) -> str:
    """How many claims have each verdict, such as "Of 5 claims 3 hold, 1 is open, 1 does not hold"."""
    counts = Counter(words)
    said = [f"{counts[word]} {(SINGULARS if counts[word] == 1 else PLURALS)[word]}" for word in MARKS if counts[word]]
    return f"Of {len(words)} claim{'s' if len(words) > 1 else ''} {', '.join(said)}"


def _options(command: str) -> Markup:
    """A command whose options are not broken after their hyphens."""
    return Markup(re.sub(r"(--[\w-]+)", r'<span class="whole">\1</span>', str(escape(command))))


def _machine() -> str:
    """What the numbers were measured with."""
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind} device(s), {os.cpu_count()} processor cores"
    versions = f"fnn {fnn.__version__}, JAX {jax.__version__}, Python {platform.python_version()}"
    return f"{versions}, {devices}, {date.today():%d %B %Y}"
