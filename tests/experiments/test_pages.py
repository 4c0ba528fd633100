"""The pages of the report: what they show, in which order, in words, drawings and formulas."""

import io
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.report import (
    Claim,
    Outcome,
    Settings,
    animated,
    at_most,
    curves,
    figure,
    finished,
    interval,
    judged,
    judged_each,
    plots,
    within,
)
from experiments.report.forest import forest
from experiments.report.mathematics import displayed, literal, prose
from experiments.report.plots import power
from tests.experiments.reports import Run, found, pictures


class Elements(HTMLParser):
    """Every element of a page, with its attributes; and its words."""

    VOID = ("meta", "br", "link", "img", "hr", "input", "source")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()


@pytest.fixture
def pages(run: Run) -> dict[str, str]:
    assert run() == 0
    return {path.name: path.read_text(encoding="utf-8") for path in (run.folder / "out").glob("*.html")}


# The front page, all claims, and a page for each


def test_there_is_a_front_page_one_of_all_claims_and_one_for_each_experiment(pages: dict[str, str]) -> None:
    assert set(pages) == {"index.html", "claims.html", "one.html", "other.html"}
    for name in ("index.html", "claims.html"):
        text = pages[name]
        assert text.index("The title of one") < text.index("The title of other")  # the lecture's order, then beyond it
    for word, count in (("holds", 2), ("open", 2), ("does not hold", 2)):
        assert len(re.findall(rf"</span> {word}</span>", pages["claims.html"])) == count
    for text in (pages["claims.html"], pages["one.html"]):
        assert "a &lt;em&gt;loss&lt;/em&gt; is below 0" in text
    assert "<b>Why?</b> The second is not." in pages["one.html"]
    assert "a mean is 1" not in pages["index.html"]  # claims stand on their pages
    assert "Two values &amp; their means." in pages["one.html"]
    assert 'python -m experiments one <span class="whole">--seeds</span> 32' in pages["one.html"]


def test_the_front_page_counts_and_links(pages: dict[str, str]) -> None:
    front = pages["index.html"]
    assert ">6 claims</a>" in front
    for anchor, words in (("holds", "2 hold"), ("open", "2 are open"), ("does-not-hold", "2 do not hold")):
        assert re.search(rf'href="claims.html#show-{anchor}">.*?</span> {words}</a>', front)
    assert "hold partly" not in front
    strip = front.split('class="strip"')[1].split("</ol>")[0]
    assert strip.index('href="#slide-7"') < strip.index('href="#slide-0"')
    assert strip.count('aria-label="Of 3 claims 1 holds, 1 is open, 1 does not hold"') == 2


def test_the_story_is_told_by_the_experiments_that_are_there(run: Run) -> None:
    def named(name: str) -> Callable[..., Outcome]:
        return lambda settings, log: found(7, why=f"{name} is not.")

    known = {name: named(name) for name in ("comparison", "backprop", "clipping", "one")}
    assert run(known=known) == 0
    front = (run.folder / "out" / "index.html").read_text(encoding="utf-8")
    story = front.split('class="story"')[1].split("</div>")[0]
    held, surprised = story.split("What surprised")
    assert held.count("<li>") == 1
    assert 'href="backprop.html">a mean is 1' in held
    assert re.findall(r'href="(\w+)\.html">a &lt;em&gt;loss', surprised) == ["clipping", "comparison"]
    assert "<summary>Why?</summary>clipping is not." in surprised
    featured = front.split('class="featured"')[1].split('class="story"')[0]
    assert "Seven methods go down a valley" in featured
    assert "Choose η and γ" not in front  # its data are not there


def test_a_page_shows_its_picture_before_its_claims_and_these_before_the_rest(pages: dict[str, str]) -> None:
    text = pages["one.html"]
    places = [text.index(part) for part in ("<h1>", "<img", "a mean is 1", "Two values", "<math", "<table", "<code>")]
    assert places == sorted(places)


def test_cases_are_drawn_and_counted(run: Run) -> None:
    def many(settings: Settings, log: Any) -> Outcome:
        outcome = found(7)
        cases = {"low": np.zeros(3), "wide": np.arange(3.0), "high": np.full(3, 4.0)}
        outcome.verdicts = [
            at_most(Claim("All are at most 1.", quantity="the loss"), 1, cases),
            judged_each("There are two.", {"first": (True, "yes"), "second": (False, "no")}),
        ]
        return outcome

    assert run("one", known={"one": many}) == 0
    text = (run.folder / "out" / "one.html").read_text(encoding="utf-8")
    assert "1 of 3 cases holds, 1 is open. Shown: the loss." in text
    assert "1 of 2 cases holds." in text
    assert re.findall(r'<li class="([\w-]+)"><span class="name">', text) == ["holds", "open", "does-not-hold"]
    assert text.count('class="bar"') == 3
    assert re.search(r"first: yes</p>", text)


# Drawn intervals


def test_intervals_are_drawn_on_one_axis_with_what_the_claim_allows() -> None:
    drawn = forest(within("", 0, 3, {"a": np.array([0.0, 1.0, 2.0]), "b": np.full(3, 5.0)}))
    assert drawn is not None
    mean, half = interval(np.array([0.0, 1.0, 2.0]))
    low, high = float(mean - half), 5.0
    begin, width = low - 0.06 * (high - low), 1.12 * (high - low)
    places = [100 * (value - begin) / width for value in (mean - half, mean, mean + half)]
    assert drawn.rows[0].place == pytest.approx(places, abs=0.01)
    assert drawn.rows[1].place == pytest.approx([100 * (5 - begin) / width] * 3, abs=0.01)
    assert drawn.allowed == pytest.approx([100 * (value - begin) / width for value in (0, 3)], abs=0.01)

    for place, text in drawn.ticks:
        assert place == pytest.approx(100 * (float(text.replace("−", "-")) - begin) / width, abs=0.01)


def test_numbers_of_many_sizes_are_drawn_on_a_logarithmic_axis() -> None:
    drawn = forest(at_most("", 1e-2, {"small": np.full(2, 1e-6), "large": np.full(2, 1e-2)}))
    assert drawn is not None
    small, large = (row.place[1] for row in drawn.rows if row.place)
    assert (small, large) == pytest.approx([100 * 0.06 / 1.12, 100 * 1.06 / 1.12], abs=0.01)
    assert drawn.allowed == (0.0, large)
    assert {text for _, text in drawn.ticks} <= {"10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "10⁻³", "0.01"}


def test_what_has_no_interval_is_not_drawn() -> None:
    assert forest(judged("", True, "yes")) is None
    assert forest(at_most("", 1, np.array([math.nan, 1.0]))) is None
    drawn = forest(at_most("", 1, {"lost": np.array([math.nan, 1.0]), "there": np.ones(2)}))
    assert drawn is not None
    assert [row.place is None for row in drawn.rows] == [True, False]
    assert 0 < drawn.rows[1].place[0] < 100  # pyright: ignore[reportOptionalSubscript]


# Formulas


def test_a_line_of_latex_is_a_formula() -> None:
    first, second = displayed("a < b\n\n\\frac{1}{2}")
    assert "<mi>a</mi><mo>&#x0003C;</mo><mi>b</mi>" in first
    assert "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>" in second
    assert 'display="block"' in first


def test_formulas_stand_in_prose_between_dollars_and_the_rest_is_escaped() -> None:
    assert prose("a < b & c") == "a &lt; b &amp; c"
    said = prose("from $w_h$ <on>")
    assert said.startswith("from <math")
    assert "<msub><mi>w</mi><mi>h</mi></msub>" in said
    assert said.endswith("</math> &lt;on&gt;")
    assert prose(literal("cost $ and gain $_{")) == "cost $ and gain $_{"
    assert prose(literal("5 $") + " of $x$").startswith("5 $ of <math")


# Names of lines, and powers


def test_names_of_lines_stand_apart_and_in_the_order_of_their_ends() -> None:
    wanted = np.array([0.0, 0.01, 0.5, 0.52, 0.9])
    places = plots._apart(wanted, 0.1)
    assert (np.diff(places) >= 0.1 - 1e-12).all()
    np.testing.assert_allclose(places, [-0.045, 0.055, 0.46, 0.56, 0.9])  # each pair is moved as little as can be


def test_many_lines_are_named_at_their_ends() -> None:
    values = {f"line {i}": np.full((2, 3), float(i)) for i in range(6)}
    picture = curves([1, 2, 3], values, "Six", "Six lines.", xlabel="x", ylabel="y")
    heights = [float(re.search(rf'y="([\d.]+)"[^>]*>line {i}<', picture.svg)[1]) for i in range(6)]  # pyright: ignore
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.01, "0.01"), (200, "200"), (1e-6, "10⁻⁶"), (5e-6, "5·10⁻⁶"), (-2.0, "−2"), (0, "0"), (1e5, "10⁵")],
)
def test_powers_are_written_in_plain_letters(value: float, written: str) -> None:
    assert power(value) == written


def test_a_picture_is_never_smaller_than_its_smallest_word_can_be_read() -> None:
    with figure(8.0, 3.0) as canvas:
        canvas.subplots().set_title("a title", fontsize=12)
        wide = finished(canvas, "wide", "wide")
    assert wide.narrowest == math.ceil(9 / (10 * 4 / 3) * 8.0 * 96)  # ticks of ten points
    assert curves([1, 2], {"a": np.ones((2, 2))}, "a", "b", xlabel="x", ylabel="y").narrowest == 0


def test_a_moving_picture_with_small_words_is_refused() -> None:
    def draw(canvas: Any, k: int) -> None:
        canvas.text(0.5, 0.5, "small", fontsize=6)

    with pytest.raises(ValueError, match="legible from 577 pixels on"):
        animated(draw, 1, "a", "b", size=(5.34, 2))


def test_a_moving_picture_has_a_dark_twin() -> None:
    def draw(canvas: Any, k: int) -> None:
        canvas.add_axes((0.2, 0.2, 0.7, 0.7)).plot([0, k])

    moving = animated(draw, 2, "a", "b", size=(3, 2))
    corners = [Image.open(io.BytesIO(part)).convert("RGB").getpixel((0, 0)) for part in moving[2:6]]
    assert corners == [(255, 255, 255), (21, 23, 26)] * 2
    frames = [Image.open(io.BytesIO(gif)) for gif in (moving.gif, moving.dark_gif)]
    assert [getattr(frame, "n_frames", 1) for frame in frames] == [2, 2]


# Pages that need nothing else


def test_the_site_needs_nothing_but_itself(run: Run, pages: dict[str, str]) -> None:
    for text in pages.values():
        elements = Elements(text)
        assert not elements.open
        assert not {tag for tag, _ in elements.found} & {"script", "iframe"}
        attributes = [a[name] for _, a in elements.found for name in ("src", "srcset", "href") if a.get(name)]
        ids = [a["id"] for _, a in elements.found if "id" in a]
        assert len(ids) == len(set(ids))
        for target in map(str, attributes):
            if target.startswith("#"):
                assert target[1:] in ids
            elif not target.startswith("data:"):
                assert (run.folder / "out" / target.split("#")[0]).is_file(), target
    style = (run.folder / "out" / "style.css").read_text(encoding="utf-8")
    assert "@import" not in style
    assert "url(" not in style


def test_pictures_have_sizes_and_words(pages: dict[str, str]) -> None:
    for text in pages.values():
        elements = Elements(text).found
        pictures = [a for tag, a in elements if tag == "img"]
        assert all(int(str(a["width"])) > 0 and int(str(a["height"])) > 0 and a["alt"] is not None for a in pictures)
        assert ("html", "en") in [(tag, a.get("lang")) for tag, a in elements]
        assert all(a.get("scope") in ("col", "row") for tag, a in elements if tag == "th")


def test_a_picture_takes_the_colours_of_the_page(run: Run, pages: dict[str, str]) -> None:
    svg = pictures(run.folder / "out", "one")["1.svg"].decode("utf-8")
    assert svg.startswith("<svg viewBox=")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "prefers-color-scheme:dark" in svg
    assert svg == found(7).figures[0].svg
