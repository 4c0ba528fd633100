"""The report in a real browser, opened from the disk: it loads, fits, reads and can be walked by keyboard."""

import re
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import explorer, surfaces
from experiments.claims import backprop
from experiments.report import (
    Animation,
    Claim,
    Figure,
    Outcome,
    Settings,
    Table,
    animated,
    at_most,
    curves,
    judged,
    site,
    storage,
)

Axe = pytest.importorskip("axe_core_python.selenium", reason="axe-core-python is not installed").Axe
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Service = pytest.importorskip("selenium.webdriver.chrome.service").Service

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium or chromedriver is not installed")

PAGES = ("index", "claims", "explore", "long", "moving", "backprop")
PICTURED = ("index", "long", "moving", "backprop")
WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")
CONTRAST = """
const rgba = color => color.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = element => { const color = rgba(getComputedStyle(element).backgroundColor);
    return color.length > 3 && color[3] === 0 ? ground(element.parentElement) : color; };
return [...document.querySelectorAll(arguments[0])].map(element => {
    const both = [light(rgba(getComputedStyle(element).color)), light(ground(element))];
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05); });
"""
"""the ratios of WCAG between the elements of a selector and what is behind them"""
STOPS = """
const stops = () => [...document.querySelectorAll(
    "a[href], [tabindex='0'], input:not([type=radio]), input:checked[type=radio], summary, button")]
    .filter(element => element.checkVisibility());
"""
FOCUSED = f"""{STOPS}
const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
return {{place: stops().indexOf(element), name: element.className,
        outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1,
        seen: box.width > 0 && box.left >= 0 && box.top < innerHeight && box.bottom > 0}};
"""


def plot() -> Figure:
    values = np.arange(12.0).reshape(2, 6) + 1
    return curves(range(6), {"loss": values}, "A line", "A line that rises", xlabel="step", ylabel="loss", logy=True)


def motion() -> Animation:
    def draw(canvas: Any, k: int) -> None:
        canvas.add_axes((0.2, 0.2, 0.7, 0.7)).plot([0, k])

    return animated(draw, 3, "A line that moves", "Moving picture of a line that turns", size=(3, 2))


def outcomes() -> list[Outcome]:
    """One with everything that is wide or long, one that moves, and a real one."""
    words = "unbreakable" * 8
    long = Outcome(
        lead=f"Everything is too long here: {words}.",
        equation=" + ".join(f"w_{i}x_{i}" for i in range(60)),
        verdicts=[
            at_most(f"one holds, {words}", 3, {words: np.arange(3.0), "other": np.array([1.0, 1.1, 1.2])}),
            at_most("one holds partly", 1, {"low": np.zeros(3), "high": np.full(3, 2.0)}),
            at_most("one is open", 1, np.arange(3.0)),
            judged(Claim("one does not hold", f"because of {words}"), False, "0"),
        ],
        tables=[Table(f"A wide table, {words}", tuple(f"column {i}" for i in range(20)), [("1",) * 20] * 3)],
        figures=[plot(), plot()._replace(narrowest=900)],
        slide=3,
        title=f"A title that is long, {words}",
        name="long",
        command=f"python -m experiments {words}",
    )
    still = Outcome(
        lead="It moves.", verdicts=[judged("it moves", True, "yes")], animations=[motion()], slide=3, title="Motion"
    )
    still.files = {"explorer.json": explorer.explorer({"sgd": "SGD", "momentum": "momentum"})}
    still.name, still.command = "moving", "python -m experiments moving"
    real = backprop.run(Settings(seeds=2, quick=True), lambda words: None)
    real.name, real.command, real.title = "backprop", "python -m experiments backprop", real.title or "BackProp"
    return [long, still, real]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for outcome in outcomes():
        storage.save(folder, outcome, "made by a test")
    site.write(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def opened(browser: Any, page: Path, width: int = 1280, scheme: str = "light", motion: str = "no-preference") -> None:
    """The page as a screen of this width shows it to somebody with these preferences."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def loaded(browser: Any) -> list[dict[str, Any]]:
    """Every picture, those further down too, once it is there."""
    browser.execute_script("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    script = """return [...document.images].map(i => ({source: i.currentSrc, complete: i.complete, own: i.naturalWidth,
        size: [i.getAttribute("width"), i.getAttribute("height")].map(Number), words: i.alt}))"""
    end = time.monotonic() + 5
    found = browser.execute_script(script)
    while not all(picture["complete"] for picture in found):
        assert time.monotonic() < end, f"pictures are missing: {found}"
        time.sleep(0.02)
        found = browser.execute_script(script)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_it_loads_whole_and_without_complaints(browser: Any, report: Path, name: str) -> None:
    opened(browser, report / f"{name}.html")
    pictures = loaded(browser)
    assert bool(pictures) == (name in PICTURED)
    for picture in pictures:
        assert picture["own"] > 0, picture
        assert min(picture["size"]) > 0, picture
        assert len(picture["words"]) > 10 or name == "index", picture  # where a link beside it says it
    assert browser.get_log("browser") == []
    assert browser.title
    assert browser.execute_script("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(browser: Any, report: Path, name: str) -> None:
    opened(browser, report / f"{name}.html")
    for link in browser.execute_script("return [...document.links].map(link => link.href)"):
        parts = urlsplit(link)
        assert parts.scheme == "file", link
        target = Path(unquote(parts.path))
        assert target.is_file(), link
        assert not parts.fragment or f'id="{parts.fragment}"' in target.read_text(encoding="utf-8"), link


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_it_fits_the_screen(browser: Any, report: Path, name: str, width: int) -> None:
    opened(browser, report / f"{name}.html", width)
    loaded(browser)
    assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    outside = """return [...document.querySelectorAll('.claim *, .strip *, .cards *, .controls *')].filter(part =>
        part.getBoundingClientRect().right > innerWidth + 1 && !part.closest(".scroll, .unseen")).length"""
    assert browser.execute_script(outside) == 0


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation(browser: Any, report: Path, name: str) -> None:
    for width, scheme in ((1280, "light"), (390, "dark")):
        opened(browser, report / f"{name}.html", width, scheme)
        found = Axe().run(browser)
        assert [(rule["id"], [node["html"][:150] for node in rule["nodes"]]) for rule in found["violations"]] == []
        assert "color-contrast" in {rule["id"] for rule in found["passes"]}


@pytest.mark.parametrize("word", ["holds", "holds-partly", "open", "does-not-hold"])
def test_claims_can_be_chosen_by_their_verdicts(browser: Any, report: Path, word: str) -> None:
    opened(browser, report / "claims.html")
    seen = """return [...document.querySelectorAll("li.claim, section")].filter(part => part.offsetHeight)
        .map(part => part.className.replace("claim ", "") || "section")"""
    everything = browser.execute_script(seen)
    browser.find_element("id", f"show-{word}").click()
    chosen = browser.execute_script(seen)
    assert set(chosen) == {"section", f"{word}-claim"}
    assert chosen.count(f"{word}-claim") == everything.count(f"{word}-claim")
    with_one = f"return document.querySelectorAll('section:has(.{word}-claim)').length"
    assert chosen.count("section") == browser.execute_script(with_one)
    browser.find_element("id", "show-all").click()
    assert browser.execute_script(seen) == everything


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_its_words_stand_out(browser: Any, report: Path, name: str, scheme: str) -> None:
    opened(browser, report / f"{name}.html", scheme=scheme)
    dark = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(value => value < 60)"
    assert browser.execute_script(dark) == (scheme == "dark")
    text = browser.execute_script(CONTRAST, "h1, h2, h3, p:not(.soft, .word), .equation, td, th, code")
    assert min(text) >= 7
    small = browser.execute_script(CONTRAST, ".word, .soft, figcaption, caption, a")
    assert min(small) >= 4.5


@pytest.mark.parametrize("name", PAGES)
def test_it_can_be_walked_by_keyboard(browser: Any, report: Path, name: str) -> None:
    opened(browser, report / f"{name}.html")
    count = browser.execute_script(f"{STOPS} return stops().length")
    for place in range(count):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.execute_script(FOCUSED)
        assert focused["place"] == place, focused
        assert focused["outline"] or focused["name"] == "pause", focused  # whose label has the outline
        assert focused["seen"], focused
        assert place or focused["name"] == "skip"
    clipped = """return [...document.querySelectorAll('main *')].filter(part => part.scrollWidth > part.clientWidth + 1
        && ["auto", "scroll"].includes(getComputedStyle(part).overflowX))
        .map(part => [part.tabIndex, part.getAttribute("role"), !!part.getAttribute("aria-label")])"""
    regions = browser.execute_script(clipped)
    assert all(region == [0, "region", True] for region in regions)
    assert len(regions) >= (3 if name == "long" else 0)  # equations, a table, a picture


@pytest.mark.parametrize("name", PAGES)
def test_its_headings_are_in_order(browser: Any, report: Path, name: str) -> None:
    opened(browser, report / f"{name}.html")
    script = "return [...document.querySelectorAll('h1, h2, h3, h4')].map(heading => +heading.tagName[1])"
    levels = browser.execute_script(script)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    landmarks = "return ['main', 'h1', 'footer'].map(name => document.querySelectorAll(name).length)"
    assert browser.execute_script(landmarks) == [1, 1, 1]


SHOWN = """return [...document.images].filter(image => image.checkVisibility()).map(image => image.currentSrc)"""


@pytest.mark.parametrize(("scheme", "letter"), [("light", "m"), ("dark", "d")])
def test_motion_has_colours_of_the_page_and_can_be_stopped(
    browser: Any, report: Path, scheme: str, letter: str
) -> None:
    opened(browser, report / "moving.html", scheme=scheme)
    loaded(browser)
    (running,) = browser.execute_script(SHOWN)
    assert re.search(rf"/moving\.{letter}1\.[0-9a-f]+\.gif$", running)
    switch = browser.find_element("css selector", "input.pause")
    browser.execute_script("arguments[0].focus()", switch)
    switch.send_keys(Keys.SPACE)
    (still,) = browser.execute_script(SHOWN)
    assert re.search(rf"/moving\.{letter}1\.[0-9a-f]+\.png$", still)
    switch.send_keys(Keys.SPACE)
    assert browser.execute_script(SHOWN) == [running]


@pytest.mark.parametrize("name", ["moving", "index"])
def test_who_asks_for_less_motion_sees_the_still(browser: Any, report: Path, name: str) -> None:
    opened(browser, report / f"{name}.html", motion="reduce")
    loaded(browser)
    pictures = browser.execute_script(SHOWN)
    assert any(picture.endswith(".png") for picture in pictures)
    assert not any(picture.endswith(".gif") for picture in pictures)


# Methods to try


def places(path: str) -> np.ndarray:
    """The corners of an SVG path of straight lines."""
    return np.array([[float(value) for value in place.split()] for place in path[1:].split("L")])


def chosen(browser: Any) -> dict[str, Any]:
    """What the page shows: rate, memory, step, the ways and the losses."""
    words = {name: browser.find_element("id", f"{name}-shown").text for name in ("eta", "gamma", "step")}
    ways = browser.execute_script("return [...document.querySelectorAll('#plane .way')].map(w => w.getAttribute('d'))")
    losses = [cell.text for cell in browser.find_elements("css selector", "#methods td")]
    return {**words, "ways": ways, "losses": losses}


def expected_way(method: str, eta: float, gamma: float) -> np.ndarray:
    """The path in the valley by a loop, from the start that the page shows, in the drawing's pixels."""
    keys = jax.random.split(jax.random.split(jax.random.key(2026), 1)[0], 3)
    w = np.array([1.0, 1.5]) + np.asarray(jax.random.uniform(keys[0], (2,), minval=-0.2, maxval=0.2), np.float64)
    (left, right), (low, high) = surfaces.SURFACES["valley"].box
    v, ways = np.zeros(2), [w]
    for _ in range(int(explorer.SHOWN[-1])):
        g = np.asarray(jax.grad(surfaces.valley)(jnp.asarray(w, jnp.float32)), np.float64)
        v = gamma * v + (1 - gamma) * g
        w = w - eta * (v if method == "momentum" else g)
        ways.append(w)
    shown = np.array(ways)[explorer.SHOWN]
    return 300 * (shown - (left, high)) / (right - left, low - high)


def test_methods_can_be_tried_by_keyboard(browser: Any, report: Path) -> None:
    opened(browser, report / "explore.html", 390)
    eta, gamma, step = (browser.find_element("id", name) for name in ("eta", "gamma", "step"))
    for _ in range(5):
        eta.send_keys(Keys.ARROW_LEFT)
    gamma.send_keys(Keys.ARROW_LEFT)
    shown = chosen(browser)
    assert (shown["eta"], shown["gamma"], shown["step"]) == ("0.0056", "0.8", "400")
    for way, method in zip(shown["ways"], ("sgd", "momentum"), strict=True):
        np.testing.assert_allclose(places(way), expected_way(method, 0.0056, 0.8), atol=0.3)
    for loss, method in zip(shown["losses"], ("sgd", "momentum"), strict=True):
        (left, right), (low, high) = surfaces.SURFACES["valley"].box
        x, y = expected_way(method, 0.0056, 0.8)[-1] / 300 * (right - left, low - high) + (left, high)
        assert float(loss) == pytest.approx(surfaces.valley((x, y)), rel=0.06)
    step.send_keys(Keys.HOME)
    begun = chosen(browser)
    assert begun["step"] == "0"
    assert len(set(begun["losses"])) == 1
    browser.find_element("css selector", "#methods input").send_keys(Keys.SPACE)
    assert len(chosen(browser)["ways"]) == 1
    browser.find_element("css selector", "#surfaces input").send_keys(Keys.ARROW_RIGHT)
    assert chosen(browser)["losses"] != begun["losses"]
    play = browser.find_element("id", "play")
    play.send_keys(Keys.ENTER)
    assert play.text == "Stop"
    end = time.monotonic() + 20
    while play.text != "Play":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert chosen(browser)["step"] == "400"
    assert browser.get_log("browser") == []


# The front page, long and short


def test_the_front_page_comes_to_the_point(browser: Any, tmp_path: Path) -> None:
    for i, name in enumerate(("comparison", "vanishing", "digits", "pruning", *(f"e{i}" for i in range(38)))):
        outcome = Outcome(
            "A lead.",
            [judged(f"Claim {i} of {name} is a whole sentence of about twelve words.", j > 0, "1") for j in range(4)],
            slide=min(25, 1 + i // 2),
            figures=[plot()],
            title=f"Experiment {name} has a title of about ten words or so",
        )
        outcome.name, outcome.command = name, f"python -m experiments {name}"
        storage.save(tmp_path, outcome, "made by a test")
    site.write(tmp_path)
    opened(browser, tmp_path / "index.html", 390)
    loaded(browser)
    assert browser.execute_script("return document.documentElement.scrollHeight") <= 8 * 844
    words = """const cards = document.querySelector(".cards");
        return [...document.querySelectorAll("h1, h2, p, li, figcaption")].filter(part => !cards.contains(part))
            .map(part => part.innerText).join(" ").split(/\\s+/).length"""
    assert browser.execute_script(words) <= 600
    first = "return Math.min(...[...document.images].map(image => image.getBoundingClientRect().top))"
    assert browser.execute_script(first) <= 844
