"""The experiments that look at networks: they have everything, and a user's own network is taken or refused."""

import json
import re
import sys
from io import StringIO

import pytest
from rich.console import Console

from experiments.__main__ import Options, main
from experiments.claims import gradients

# The networks of the experiment


def test_the_networks_have_every_layer_combinator_activation_and_loss():
    cases = gradients.sound_networks()
    assert len(cases) >= 12
    written = " ".join(f"{net} {loss}" for net, loss in cases.values()) + " " + " ".join(cases)
    layers = "linear activate dense prelu dropout inverted_dropout batch_norm"
    combinators = "serial columns residual repeat remat watch from_function"
    activations = "heaviside sigmoid tanh logarithmic gaussian identity relu leaky_relu softplus"
    losses = "squared logistic_margin hinge_margin exponential_margin sigmoid_margin binary_cross_entropy"
    for name in f"{layers} {combinators} {activations} {losses} softmax_cross_entropy".split():
        assert re.search(rf"\b{name}\b", written), f"no network uses {name}"


# A user's own network


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
        "strange = fnn.from_function(lambda key, x: fnn.nn.zeros()(key, (3, 3), x.dtype), lambda a, x: x @ a)\n"
        "normed = fnn.serial(fnn.linear(2), fnn.batch_norm())\n"
        "single = fnn.from_function(lambda key, x: (), lambda a, x: x.astype('float32'), 'single')\n"
        "three = 3\n",
        encoding="utf-8",
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
    options = Options(("gradients",), quick=True, out=my_module / "out", network=network, features=4, examples=5)
    assert main(options, Console(file=printed, width=500)) == (1 if broken else 0)
    stored = json.loads((my_module / "out" / "results" / "gradients.json").read_text(encoding="utf-8"))
    assert stored["numbers"]["verdict"].startswith(verdict)
    assert (stored["numbers"]["culprit"] or {}).get("place") == place
    assert f"--network {network} --loss squared --features 4 --examples 5" in stored["command"]
    laws = stored["numbers"]["laws"]
    assert [name for name, found in laws.items() if not found["passed"]] == ([broken] if broken else [])
    assert ("the network" in laws) == (broken is None)
    assert f"{broken} breaks: " in printed.getvalue() if broken else "3 of 3 asked" in printed.getvalue()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "my_module:three"}, "my_module:three is a int; expected an fnn.Layer"),
        ({"network": "my_module"}, "names no example; expected MODULE:NAME"),
        ({"network": "my_module:none"}, "run from the folder where my_module.py lies"),
        ({"network": "nowhere_at_all:net"}, "cannot be loaded: No module named"),
        ({"network": "my_module:right", "loss": "tanh"}, "is no loss; expected one of "),
        ({"network": "my_module:right", "examples": 0}, "must be 1 or more, got 8 and 0"),
        ({"network": "my_module:right", "names": ("digits",)}, "--network goes with backprop, gradients"),
        ({"network": "my_module:needs"}, "called without arguments, raises TypeError: needs() missing 1 required"),
        ({"network": "my_module:fails"}, "called without arguments, raises TypeError: "),
        ({"network": "my_module:raises"}, "raises ZeroDivisionError: division by zero (my_module.py, line 23)"),
        ({"network": "my_module:strange"}, "given 32 examples of 8 features, raises TypeError: dot_general requires"),
        (
            {"network": "my_module:normed", "examples": 1},
            "in training with --loss squared raises NeedsMoreExamples: batch_norm()",
        ),
        ({"network": "my_module:single", "names": ("gradients",)}, "single does not follow the dtype of x"),
    ],
)
def test_networks_that_cannot_be_taken_are_refused(my_module, options, message: str) -> None:
    printed = StringIO()
    assert main(Options(out=my_module / "out", **options), Console(file=printed, width=150)) == 2
    assert message in printed.getvalue()
    assert printed.getvalue().count("\n") == 1
