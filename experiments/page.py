"""The report: one self-contained page, and the numbers behind it as JSON."""

from __future__ import annotations

import base64
import json
import math
import os
import platform
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import jax
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

import fnn
from experiments.outcomes import Outcome

_SHOWN = ("animations", "figures", "tables", "verdicts")  # what the page shows and the JSON leaves out


def write(folder: Path, outcomes: list[Outcome]) -> Path:
    """Write ``folder/index.html`` and ``folder/results/NAME.json`` from the outcomes so far.

    Returns:
        The page's path.
    """
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    for outcome in outcomes:
        plain = {key: value for key, value in asdict(outcome).items() if key not in _SHOWN}
        plain["verdicts"] = [verdict._asdict() for verdict in outcome.verdicts]
        _replace(results / f"{outcome.name}.json", json.dumps(_finite(plain), indent=1, ensure_ascii=False) + "\n")
    environment = Environment(
        loader=PackageLoader("experiments", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    page = folder / "index.html"
    _replace(page, environment.get_template("page.html.j2").render(outcomes=outcomes, machine=_machine()))
    return page


def _data_uri(picture: bytes, kind: str) -> str:
    """A picture as an address that holds the picture itself."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def _finite(value: Any) -> Any:
    """The same numbers with null for NaN and infinity, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _machine() -> str:
    """What the numbers were measured with."""
    device = jax.devices()[0]
    return (
        f"fnn {fnn.__version__}, JAX {jax.__version__}, Python {platform.python_version()}, "
        f"{jax.device_count()} {device.device_kind} device, {os.cpu_count()} processor cores, {date.today():%d %B %Y}"
    )
