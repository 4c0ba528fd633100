"""Numbers as people and programs write them."""

import pytest

from experiments.tables import numbers


@pytest.mark.parametrize(
    ("words", "separator", "values"),
    [
        (["1.5", "-2", "3e2"], ",", [1.5, -2, 300]),
        (["1,5", "−2", ",25"], ";", [1.5, -2, 0.25]),
        (["1,126.5", "12"], ",", [1126.5, 12]),
        (["1.126,5", "12"], ";", [1126.5, 12]),
        (["1,126,000", "12"], ";", [1126000, 12]),
        (["0.13%", "5 %"], ",", [0.13, 5]),
        (["1.126", "2.5"], ";", [1.126, 2.5]),
        (["0,126", "1,234"], ",", [0.126, 1.234]),  # no thousands begin with 0
        (["0,126", "-0,132"], ";", [0.126, -0.132]),
    ],
)
def test_numbers_are_read_in_any_style(words: list[str], separator: str, values: list[float]) -> None:
    style = numbers.style_of(words, separator=separator)
    assert style is not None
    assert [numbers.value(word, style) for word in words] == values


@pytest.mark.parametrize(
    "words",
    [["1.5", "2,5"], ["0,126", "-0.132"], ["1.5", "x"], ["12-3", "4"], ["1,12,3"], ["0x1"], ["1_000"], ["5%", "5"]],
)
def test_other_words_are_no_numbers(words: list[str]) -> None:
    assert numbers.style_of(words) is None
