"""Checks that several judges share."""

from __future__ import annotations

from typing import Any


def _is_pair(found: Any) -> bool:
    return isinstance(found, tuple) and len(found) == 2
