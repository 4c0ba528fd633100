"""The experiments in a tiny setting, their command line, the page, and the statistics."""

import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

import fnn
from experiments import backpack, backprop, bench, digits, gradients, page, paralysis, pruning, quantities
from experiments.__main__ import Options, available, main
from experiments.contenders import child, field, timing
from experiments.outcomes import interval
from experiments.plots import figure, finished

ROOT = Path(__file__).parent.parent


def strict_json(path: Path) -> dict:
    def refuse(constant: str):
        raise ValueError(f"{path.name} holds {constant}, which JSON does not know")

    return json.loads(path.read_text(), parse_constant=refuse)


class Elements(HTMLParser):
    """Every element of a page, with its attributes and its ancestors."""

    VOID = ("meta", "br", "link", "img", "hr", "input", "source")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[dict[str, str | None]]]] = []
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), [attributes for _, attributes in self.open]))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs), [attributes for _, attributes in self.open]))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()


RUN, PRUNE, COMPARED, ZOO, FAULTS = digits.run, pruning.run, gradients.compared, gradients.zoo(), gradients.faults()
BACKPROP, BENCH, QUANTITIES = backprop.run, bench.run, quantities.run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The experiments as small as they can be, run by the command line's own main."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch, open(os.devnull, "w") as nowhere:
        patch.setattr(digits, "RATES", {"adadelta": (1.0,), "adam": (0.01,)})
        patch.setattr(digits, "NET", fnn.linear(10, w=fnn.zeros()))
        patch.setattr(digits, "run", lambda settings, show: RUN(settings._replace(quick=True), show))
        small = fnn.serial(fnn.dense(3, fnn.tanh), fnn.linear(10))
        patch.setattr(pruning, "NET", small)
        patch.setattr(pruning, "SCORES", pruning.scores(small))
        patch.setattr(pruning, "run", lambda settings, show: PRUNE(settings._replace(quick=True), show))
        patch.setattr(gradients, "zoo", lambda: {name: ZOO[name] for name in ("linear regression", "watch")})
        patch.setattr(gradients, "compared", lambda net, loss, rounds: COMPARED(net, loss, 2))
        patch.setattr(gradients, "faults", lambda: {name: FAULTS[name] for name in ("a missing transpose",)})
        patch.setattr(backprop, "run", lambda settings, show: BACKPROP(settings._replace(quick=True), show))
        patch.setattr(paralysis, "HIDDEN", 2)
        patch.setattr(paralysis, "LAYERS", range(1, 3))
        patch.setattr(quantities, "run", lambda settings, show: QUANTITIES(settings._replace(quick=True), show))
        patch.setattr(quantities, "WIDE", fnn.serial(fnn.dense(4, fnn.tanh), fnn.linear(10)))
        patch.setattr(quantities, "SMALL", fnn.linear(10))
        patch.setattr(backpack, "is_installed", lambda: False)
        patch.setattr(bench, "run", lambda settings, show: BENCH(settings._replace(quick=True), show))
        for module in (bench, timing):
            patch.setattr(module, "MAIN", (2, 3, 2))
        patch.setattr(bench, "QUICK", [((2, 3, 2), 32)])
        patch.setattr(bench, "compiling", lambda depth: 1.0)
        patch.setattr(timing, "SECONDS", 1e-3)
        patch.setattr(
            field, "installed", lambda: field.CONTENDERS[:3]
        )  # plain JAX promotes ranks, which is an error here
        times = {"begin": 0.0, "imported": 1.0, "first": 2.0, "peak": 1e8, "seconds": 1.0}
        patch.setattr(child, "measured", lambda *arguments: times)
        return main(Options(seeds=2, out=folder), Console(file=nowhere, width=150)), folder


def test_a_run_of_all_experiments_succeeds(report):
    status, folder = report
    assert status == 0
    assert (
        {path.stem for path in (folder / "results").glob("*.json")}
        == {"backprop", "bench", "digits", "gradients", "pruning", "quantities"}
        == set(available())
    )


def test_the_page_needs_nothing_but_itself(report):
    text = (report[1] / "index.html").read_text()
    elements = Elements(text)
    assert not elements.open
    tags = {tag for tag, _, _ in elements.found}
    assert not tags & {"script", "link", "iframe"}
    pictures = [a for tag, a, _ in elements.found if tag == "img"]
    assert len(pictures) == 1
    assert all(str(a["src"]).startswith("data:image/") and len(str(a["alt"])) > 20 for a in pictures)
    attributes = ("src", "srcset", "href", "xlink:href", "data")
    loaded = [a[name] for _, a, _ in elements.found for name in attributes if a.get(name)]
    assert loaded
    assert not [target for target in loaded if re.match(r"(https?:)?//", str(target))]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_the_page_reads_on_a_phone_in_the_dark_and_aloud(report):
    text = (report[1] / "index.html").read_text()
    elements = Elements(text).found
    assert ("html", "en") in [(tag, a.get("lang")) for tag, a, _ in elements]
    assert any(a.get("name") == "viewport" and "width=device-width" in str(a["content"]) for _, a, _ in elements)
    assert "prefers-color-scheme: dark" in text
    images = [(a, above) for tag, a, above in elements if tag == "svg"]
    assert len(images) == 10
    for own, above in images:
        named = [a for a in (own, *above) if a.get("role") == "img"]
        assert named
        assert len(str(named[-1]["aria-label"])) > 20
    assert all(a.get("scope") in ("col", "row") for tag, a, _ in elements if tag == "th")
    ids = [a["id"] for _, a, _ in elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_every_reference_inside_the_page_has_its_target(report):
    folder = report[1]
    elements = Elements((folder / "index.html").read_text()).found
    ids = {a["id"] for _, a, _ in elements if "id" in a}
    for _, a, _ in elements:
        target = str(a.get("href") or a.get("xlink:href") or "")
        if target.startswith("#"):
            assert target[1:] in ids
        elif target and not target.startswith("data:image/"):
            assert (folder / target).exists()


def test_the_numbers_agree_with_the_page(report):
    folder = report[1]
    text = (folder / "index.html").read_text()
    of_digits, of_gradients = (strict_json(folder / "results" / f"{name}.json") for name in ("digits", "gradients"))
    for stored in (of_digits, of_gradients):
        assert stored["command"] == f"python -m experiments {stored['name']} --seeds 2"
        assert stored["command"] in text
        assert all(verdict["measured"] in text for verdict in stored["verdicts"])
        assert isinstance(stored["verdicts"][0]["holds"], bool)
    accuracy = of_digits["numbers"]["held_out_accuracy"]["adam"]
    assert f"{accuracy['mean']:.4f} ± {accuracy['half']:.4f}" in text
    assert accuracy["mean"] > 0.85
    planted = {name for name in of_gradients["numbers"] if name.startswith("planted: ")}
    assert len(planted) == 1
    assert all((report["worst"] > 1e-12) == (name in planted) for name, report in of_gradients["numbers"].items())


def test_every_experiment_says_its_command():
    for name in available():
        assert f"python -m experiments {name}" in str(sys.modules[f"experiments.{name}"].__doc__)


# The zoo


def test_the_zoo_has_every_layer_combinator_activation_and_loss():
    zoo = gradients.zoo()
    assert len(zoo) >= 12
    written = " ".join(f"{net} {loss}" for net, loss in zoo.values()) + " " + " ".join(zoo)
    layers = "linear activate dense prelu dropout inverted_dropout batch_norm"
    combinators = "serial columns residual repeat remat watch from_function"
    activations = "heaviside sigmoid tanh logarithmic gaussian identity relu leaky_relu softplus"
    losses = "squared logistic_margin hinge_margin exponential_margin sigmoid_margin binary_cross_entropy"
    for name in f"{layers} {combinators} {activations} {losses} softmax_cross_entropy".split():
        assert re.search(rf"\b{name}\b", written), f"no network of the zoo uses {name}"


# Statistics


def test_interval_is_scipys():
    values = np.random.default_rng(3).normal(size=(7, 4))
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 6, values.mean(axis=0), stats.sem(values, axis=0))
    np.testing.assert_allclose(mean - half, low, rtol=1e-12)
    np.testing.assert_allclose(mean + half, high, rtol=1e-12)


def test_interval_of_equal_values_is_a_point():
    mean, half = interval([0.25, 0.25, 0.25])
    assert (float(mean), float(half)) == (0.25, 0.0)


def test_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(5).normal(size=(5, 4000))
    mean, half = interval(draws)
    share = float(np.mean(np.abs(mean) <= half))
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_interval_needs_two():
    with pytest.raises(ValueError, match="at least 2"):
        interval([1.0])


# Plots


def drawn() -> str:
    with figure() as canvas:
        canvas.subplots().plot([1.0, 2.0, 4.0])
        return finished(canvas, "Doubling", "A line that rises from 1 to 4.").svg


def test_a_plot_takes_its_ink_from_the_page_and_is_the_same_each_time():
    svg = drawn()
    assert svg == drawn()
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert svg.startswith("<svg viewBox=")
    assert "<metadata" not in svg


# The command line


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    line = [sys.executable, "-m", "experiments", *arguments]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_help_says_what_every_option_does():
    shown = command_line("--help")
    assert shown.returncode == 0
    for word in ("NAMES", "--quick", "--seeds", "--out", "digits", "gradients", "Ctrl-C"):
        assert re.search(word, shown.stdout, re.IGNORECASE), f"--help does not mention {word}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(names=("digit",)), r"no experiment named digit; there are: backprop, bench, digits"),
        (Options(seeds=1), r"--seeds must be 2 or more.*got 1"),
        (Options(seeds=0), r"--seeds must be 2 or more.*got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message, tmp_path, capsys):
    options.out = tmp_path / "report"
    assert main(options, Console(width=150)) == 2
    assert re.search(message, capsys.readouterr().out)
    assert not options.out.exists()


def test_ctrl_c_leaves_the_report_of_what_is_finished(tmp_path, monkeypatch, capsys):
    def interrupted(settings, show):
        raise KeyboardInterrupt

    def done(settings, show):
        return page.Outcome("digits", "A title", "A lead.", "a = b", "", [], [], [], {"one": 1.0})

    monkeypatch.setattr("experiments.__main__.available", lambda: {"digits": done, "gradients": interrupted})
    assert main(Options(out=tmp_path), Console(width=150)) == 130
    assert "what is finished: digits" in capsys.readouterr().out
    text = (tmp_path / "index.html").read_text()
    assert "A title" in text
    assert text.rstrip().endswith("</html>")


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """A module such as a user would write."""
    (tmp_path / "my_module.py").write_text(
        "import fnn\n"
        "right = fnn.serial(fnn.dense(3, fnn.tanh), fnn.linear(2))\n"
        "def wrong():\n"
        "    layer = fnn.linear(2)\n"
        "    def backward(*given):\n"
        "        error, readings = layer.backward(*given)\n"
        "        return 1.001 * error, readings\n"
        "    return fnn.serial(fnn.dense(3, fnn.tanh), layer._replace(label='mine', backward=backward))\n"
        "def bottom():\n"
        "    layer = fnn.dense(3, fnn.tanh)\n"
        "    def backward(*given):\n"
        "        error, readings = layer.backward(*given)\n"
        "        return -3 * error, readings\n"
        "    return layer._replace(label='mine', backward=backward)\n"
        "first = fnn.serial(bottom(), fnn.linear(2))\n"
        "def reads_a_sum():\n"
        "    layer = fnn.linear(2)\n"
        "    def backward(params, tape, error, read):\n"
        "        return layer.backward(params, tape, error, fnn.gradient)\n"
        "    return fnn.serial(fnn.dense(3, fnn.tanh), layer._replace(label='mine', backward=backward))\n"
        "def needs(width): return fnn.linear(width)\n"
        "def fails(): return fnn.linear('two')\n"
        "raises = fnn.serial(fnn.linear(2)._replace(init=lambda key, x: 1 / 0))\n"
        "strange = fnn.from_function(lambda key, x: fnn.zeros()(key, (3, 3), x.dtype), lambda a, x: x @ a)\n"
        "normed = fnn.serial(fnn.linear(2), fnn.batch_norm())\n"
        "single = fnn.from_function(lambda key, x: (), lambda a, x: x.astype('float32'), 'single')\n"
        "three = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_module", None)


@pytest.mark.parametrize(
    ("network", "verdict", "place", "broken"),
    [
        ("right", "agree to ", None, None),
        ("wrong", "manual wrong", "[1] mine", "[1] mine"),
        ("bottom", "manual wrong", "mine", "mine"),
        ("first", "manual wrong", "[0] mine", "[0] mine"),
        ("reads_a_sum", "agree to ", None, "[1] mine"),
    ],
)
def test_a_users_network_is_compared(my_module, network: str, verdict: str, place: str, broken: str) -> None:
    printed, network = StringIO(), f"my_module:{network}"
    options = Options(("gradients",), quick=True, out=my_module / "out", network=network, features=4, objects=5)
    assert main(options, Console(file=printed, width=500)) == (1 if broken else 0)
    stored = strict_json(my_module / "out" / "results" / "gradients.json")
    assert stored["numbers"]["verdict"].startswith(verdict)
    assert (stored["numbers"]["culprit"] or {}).get("place") == place
    assert f"--network {network} --loss squared --features 4 --objects 5" in stored["command"]
    laws = stored["numbers"]["laws"]
    assert [name for name, found in laws.items() if not found["passed"]] == ([broken] if broken else [])
    assert ("the network" in laws) == (broken is None)
    assert f"{broken} breaks: " in printed.getvalue() if broken else "3 of 3 asked" in printed.getvalue()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "my_module:three"}, "my_module:three is a int; expected an fnn.Layer"),
        ({"network": "my_module"}, "names no object; expected MODULE:NAME"),
        ({"network": "my_module:none"}, "run from the folder where my_module.py lies"),
        ({"network": "nowhere_at_all:net"}, "cannot be loaded: No module named"),
        ({"network": "my_module:right", "loss": "tanh"}, "is no loss; expected one of "),
        ({"network": "my_module:right", "objects": 0}, "must be 1 or more, got 8 and 0"),
        ({"network": "my_module:right", "names": ("digits",)}, "--network goes with gradients and backprop"),
        ({"network": "my_module:needs"}, "called without arguments, raises TypeError: needs() missing 1 required"),
        ({"network": "my_module:fails"}, "called without arguments, raises TypeError: "),
        ({"network": "my_module:raises"}, "raises ZeroDivisionError: division by zero (my_module.py, line 23)"),
        ({"network": "my_module:strange"}, "given 32 objects of 8 features, raises TypeError: dot_general requires"),
        (
            {"network": "my_module:normed", "objects": 1},
            "in training with --loss squared raises ValueError: batch_norm()",
        ),
        ({"network": "my_module:single", "names": ("gradients",)}, "single does not follow the dtype of x"),
    ],
)
def test_networks_that_cannot_be_taken_are_refused(my_module, options, message: str) -> None:
    printed = StringIO()
    assert main(Options(out=my_module / "out", **options), Console(file=printed, width=150)) == 2
    assert message in printed.getvalue()
    assert printed.getvalue().count("\n") == 1
