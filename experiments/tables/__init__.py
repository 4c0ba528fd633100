"""Tables of a user's own: read through pandas, taken by rules that are said, refused where they may mean two things."""

from experiments.tables.columns import Column, Numbers, Words, encode
from experiments.tables.errors import Unreadable
from experiments.tables.files import Cells, cells
from experiments.tables.table import CLASSES, NUMBERS, Answer, Table, described, features_of, read, shortened

__all__ = [
    "CLASSES",
    "NUMBERS",
    "Answer",
    "Cells",
    "Column",
    "Numbers",
    "Table",
    "Unreadable",
    "Words",
    "cells",
    "described",
    "encode",
    "features_of",
    "read",
    "shortened",
]
