"""Formulas on pages: LaTeX becomes MathML, which browsers show without scripts and read aloud."""

from __future__ import annotations

import re

from latex2mathml.converter import convert
from markupsafe import Markup, escape


def displayed(equations: str) -> list[Markup]:
    """Each line of LaTeX as a formula by itself."""
    return [Markup(convert(line, display="block")) for line in equations.strip().splitlines() if line.strip()]


def prose(text: str) -> Markup:
    """Words in which formulas stand between dollar signs, such as "a step along $-g$"; `literal` makes words of all."""
    words, *rest = re.split(r"(?<!\\)\$(.+?)(?<!\\)\$", text)
    parts = [_words(words)]
    for formula, after in zip(rest[::2], rest[1::2], strict=True):
        parts += [Markup(convert(formula)), _words(after)]
    return Markup("").join(parts)


def literal(text: str) -> str:
    """The text with its dollar signs as such, for `prose`."""
    return text.replace("$", r"\$")


def _words(text: str) -> Markup:
    return escape(text.replace(r"\$", "$"))
