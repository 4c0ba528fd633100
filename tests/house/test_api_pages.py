"""The API pages that `pydoctor` writes to build/api: whatever is public is on one of them.

Without pages these tests are skipped; `.ci/run` builds the pages first.
"""

import importlib
import inspect
import zlib
from html import unescape
from pathlib import Path
from typing import Any

import jax
import pytest

import fnn

PAGES = Path(fnn.__file__).parents[1] / "build" / "api"
PACKAGES = [name for name in fnn.__all__ if inspect.ismodule(getattr(fnn, name))]

pytestmark = pytest.mark.skipif(not PAGES.exists(), reason="no API pages; run pydoctor")


def documented() -> dict[str, str]:
    """The page of each documented name, from the inventory that pydoctor writes for other projects' links."""
    _, _, _, _, packed = (PAGES / "objects.inv").read_bytes().split(b"\n", maxsplit=4)
    rows = [line.rsplit(" ", maxsplit=4) for line in zlib.decompress(packed).decode("utf-8").splitlines()]
    return {name: page for name, _, _, page, _ in rows}


def is_alias(value: Any) -> bool:
    """Whether this is another name for something else, such as Params for Any: pages name the latter in its place."""
    return value is Any or value is jax.Array


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_a_page(package: str) -> None:
    pages, home = documented(), importlib.import_module(f"fnn.{package}")
    for name in home.__all__:
        if is_alias(getattr(home, name)):
            continue
        page = pages[f"fnn.{package}.{name}"].replace("$", f"fnn.{package}.{name}")
        path, _, anchor = page.partition("#")
        text = (PAGES / path).read_text(encoding="utf-8")
        assert not anchor or f'name="{anchor}"' in text, f"{name} is not on {path}"


def test_every_everyday_name_is_on_the_page_of_its_package() -> None:
    homes = [importlib.import_module(f"fnn.{name}") for name in PACKAGES]
    assert [
        name for name in fnn.__all__ if name not in PACKAGES and not any(name in home.__all__ for home in homes)
    ] == []


def test_equations_are_set_as_they_are_written_and_tables_as_tables() -> None:
    adam = unescape((PAGES / "fnn.optimizers.html").read_text(encoding="utf-8"))
    assert "v := γv + (1 − γ)g             v̂ := v/(1 − γ^k)\nG := αG + (1 − α)g²" in adam
    readings = (PAGES / "fnn.core.readings.html").read_text(encoding="utf-8")
    assert "<table" in readings
    assert "=====" not in readings
