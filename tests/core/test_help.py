"""The help of constants that users call: it describes them, and not their class."""

import copy
import math
import pickle
import pydoc
from typing import Any

import jax
import pytest

import fnn

untyped: Any = pydoc
untyped_activation: Any = fnn.Activation

SHAPES = fnn.Activation | fnn.Loss | fnn.Reading | fnn.training.Metric
CONSTANTS = {
    name: getattr(package, name)
    for package in (fnn.core, fnn.nn, fnn.training)
    for name in package.__all__
    if isinstance(getattr(package, name), SHAPES)
}
every_constant = pytest.mark.parametrize("name", CONSTANTS)


def test_the_constants_are_activations_losses_readings_and_metrics():
    assert {"squared", "gram", "tanh", "gradient_norm"} <= set(CONSTANTS)
    assert len(CONSTANTS) == 28


@every_constant
def test_the_help_of_a_constant_is_its_own(name):
    constant = CONSTANTS[name]
    shown = pydoc.render_doc(constant, renderer=untyped.plaintext)
    assert constant.doc
    assert constant.__doc__ == constant.doc != type(constant).__doc__
    assert pydoc.getdoc(constant).splitlines()[0] in shown
    assert str(type(constant).__doc__).splitlines()[0] not in shown
    assert len({other.doc for other in CONSTANTS.values()}) == len(CONSTANTS)


@pytest.mark.parametrize("shape", [fnn.Activation, fnn.Loss, fnn.Reading, fnn.training.Metric])
def test_the_help_of_a_class_is_still_the_class_docstring(shape):
    assert "class " + shape.__name__ in pydoc.render_doc(shape, renderer=untyped.plaintext)
    assert pydoc.getdoc(shape)
    assert shape.__doc__ == shape(**dict.fromkeys(shape._fields, "")).__doc__


@every_constant
def test_the_help_survives_replace_and_copies(name):
    constant = CONSTANTS[name]
    first = constant._fields[0]
    assert constant._replace(**{first: "mine"}).__doc__ == constant.doc
    assert copy.copy(constant).__doc__ == constant.doc
    assert copy.deepcopy(constant).__doc__ == constant.doc


@every_constant
def test_a_constant_is_a_pytree_that_keeps_its_help(name):
    constant = CONSTANTS[name]
    assert jax.tree.unflatten(jax.tree.structure(constant), jax.tree.leaves(constant)).__doc__ == constant.doc


def test_the_help_survives_pickling():
    mine = untyped_activation(label="sine", value=math.sin, slope=math.cos, curvature=math.sin, doc="The sine.")
    assert pickle.loads(pickle.dumps(mine)) == mine
    assert pickle.loads(pickle.dumps(mine)).__doc__ == "The sine."
