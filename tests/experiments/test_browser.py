"""The report in a real browser, opened from the disk: it loads, fits, reads and can be walked by keyboard."""

import re
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

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

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Service = pytest.importorskip("selenium.webdriver.chrome.service").Service

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium or chromedriver is not installed")

PAGES = ("index", "long", "moving", "backprop")
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
const stops = () => [...document.querySelectorAll("a[href], [tabindex='0'], input:checked, summary")]
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
    assert pictures
    for picture in pictures:
        assert picture["own"] > 0, picture
        assert min(picture["size"]) > 0, picture
        assert len(picture["words"]) > 10, picture
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
    overlapping = """return [...document.querySelectorAll('ul.claims > li')].filter(claim => {
        const [word, text] = [...claim.children].map(part => part.getBoundingClientRect());
        return word.right > text.left && word.bottom > text.top + 1 || word.right > innerWidth; }).length"""
    assert browser.execute_script(overlapping) == 0


@pytest.mark.parametrize("word", ["holds", "holds-partly", "does-not-hold"])
def test_claims_can_be_chosen_by_their_verdicts(browser: Any, report: Path, word: str) -> None:
    opened(browser, report / "index.html")
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
    text = browser.execute_script(CONTRAST, "h1, h2, h3, p:not(.soft), .equation, td, th, code")
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
        assert focused["outline"], focused
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


@pytest.mark.parametrize(("motion", "ending"), [("no-preference", ".gif"), ("reduce", ".png")])
def test_who_asks_for_less_motion_sees_the_still(browser: Any, report: Path, motion: str, ending: str) -> None:
    opened(browser, report / "moving.html", motion=motion)
    (picture,) = loaded(browser)
    assert re.search(rf"/moving\.m1\.[0-9a-f]+\{ending}$", picture["source"])
