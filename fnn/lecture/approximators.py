"""Networks that approximate any continuous function (slides "Which functions", "Kolmogorov", "Two-layer nets").

Three theorems on continuous functions on the unit cube [0, 1]^d, as trainable architectures:

- Cybenko 1989: `cybenko`, Σ_h α_h σ(⟨x, w_h⟩ − w_0h), is arbitrarily accurate, given enough neurons;
- Kolmogorov 1957: `kolmogorov`, Σ_{i=1}^{2d+1} σ_i(Σ_j f_ij(x_j)), is exact, for functions σ_i, f_ij whose form the
  theorem leaves open; here each is a small network of one variable;
- Gorban 1998: linear operations and **any single** continuous nonlinear σ are arbitrarily accurate: a `serial` of
  enough ``dense(…, σ)`` and `linear` layers. So σ need be neither monotone nor a sigmoid.

The number of layers that Gorban's theorem needs depends on σ. Two suffice if and only if σ is no polynomial (Leshno,
Lin, Pinkus and Schocken 1993): `cybenko` with `gaussian`, `logarithmic`, `relu`, …. With a polynomial σ of degree k,
two layers yield polynomials of degree k only, three of degree k², and so on: with σ(S) = S², no two layers approximate
x³ on [0, 1] better than 1/32, while three represent it exactly. The slide's conclusion, that two layers suffice, is
Cybenko's.

`sup_error` measures the accuracy on a dense grid, `unit_grid`. `fit_approximator` trains the parameters of any network,
and `steps_at` constructs those of a Cybenko sum in one dimension.

Throughout, f maps points [n, d] to values [n].

Source: A. N. Gorban, *The generalized approximation theorem and computational capabilities of neural networks* (in
Russian), Siberian J. Numerical Mathematics 1, 1998, where the algebra of all superpositions of σ and linear operations
is shown to be dense in the continuous functions on a compact set.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import heaviside
    >>> f = lambda x: jnp.sin(6 * x[:, 0])
    >>> for H in (10, 100, 1000):
    ...     params = steps_at(f, jnp.linspace(0, 1, H))
    ...     net, state = cybenko(H, heaviside), ((), ())
    ...     print(H, round(float(sup_error(f, net, params, state, unit_grid(1, 5001))), 2))
    10 0.33
    100 0.03
    1000 0.0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.types import Activation, Array, Layer, Params, State
from fnn.lecture import _checks as lecture_checks
from fnn.nn.activations import sigmoid
from fnn.nn.compositions import serial
from fnn.nn.initializers import glorot_uniform
from fnn.nn.losses import squared
from fnn.nn.neurons import dense, linear
from fnn.optimizers.adaptive_moments import adam
from fnn.training.trainers import train, trainer

Function = Callable[[Array], Array]
"""From points [n, d] to values [n]."""

_ALWAYS = 40.0  # σ(40) rounds to 1 for the sigmoid and is 1 for the Heaviside function


def cybenko(hidden: int, activation: Activation = sigmoid, *, steepness: float = 10.0) -> Layer:
    """Cybenko's two-layer network a(x) = Σ_h α_h σ(⟨x, w_h⟩ − w_0h), without an output bias (slide "Cybenko 1989").

    Its initial neurons are spread over the cube: w_h ~ normal(0, k²), and w_0h = ⟨p_h, w_h⟩ for a random point p_h of
    [0, 1]^d, so that every neuron rises somewhere within the cube; α is initialised by `glorot_uniform`.

    Erratum: the slide prints one w_0 for all neurons; each has its own.

    Args:
        hidden: H, the number of neurons.
        activation: σ. Cybenko's theorem assumes a continuous sigmoid, σ(−∞) = 0 and σ(∞) = 1; any continuous σ that is
            not a polynomial suffices (see above).
        steepness: k > 0, the initial steepness of the neurons, which rise over about 1/k of the cube's side.

    Returns:
        A layer from [n, d] to [n, 1] with params ``({"w": [d, H], "b": [H]}, {"w": [H, 1]})``, where b = −w_0 and the
        last w is α; `cybenko_params` makes them from the lecture's letters. The state is ``((), ())``.

    Raises:
        ValueError: numbers out of range.
        TypeError: an activation without derivatives.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = cybenko(32)
        >>> net
        cybenko(32, sigmoid)
        >>> params, state = net.init(jax.random.key(0), jnp.zeros((1, 2)))
        >>> net.apply(params, state, jnp.ones((5, 2))).shape
        (5, 1)
    """
    neurons = dense(hidden, activation)
    checks.positive("steepness", steepness)

    def spread(key: Array, x: Any) -> tuple[Params, State]:
        checks.rows(str(neurons), x)
        key_w, key_p = jax.random.split(key)
        shape = (x.shape[1], hidden)
        w = jnp.asarray(steepness, x.dtype) * jax.random.normal(key_w, shape, x.dtype)
        p = jax.random.uniform(key_p, shape, x.dtype)
        return {"w": w, "b": -jnp.sum(p * w, axis=0)}, ()

    def alphas(key: Array, x: Any) -> tuple[Params, State]:
        return {"w": glorot_uniform()(key, (x.shape[1], 1), x.dtype)}, ()

    weighted_sum = linear(1, bias=False)._replace(init=alphas)
    label = call_repr("cybenko", hidden, activation, steepness=(steepness, 10.0))
    return serial(neurons._replace(init=spread), weighted_sum)._replace(label=label)


def cybenko_params(alpha: Array, w: Array, w_0: Array) -> Params:
    """The params of a `cybenko` network from the lecture's letters.

    Args:
        alpha: α [H].
        w: [d, H] with the columns w_h.
        w_0: thresholds [H], which the sum subtracts.

    Returns:
        ``({"w": w, "b": −w_0}, {"w": α [H, 1]})``.

    Raises:
        ValueError: shapes that do not fit together.
    """
    shapes = [jnp.shape(part) for part in (alpha, w, w_0)]
    if len(shapes[1]) != 2 or not shapes[0] == shapes[2] == shapes[1][1:]:
        raise ValueError(
            f"cybenko_params: expected alpha [H], w [d, H] and w_0 [H], got shapes {shapes}. Make column h of w the "
            "weights of neuron h."
        )
    return {"w": jnp.asarray(w), "b": -jnp.asarray(w_0)}, {"w": jnp.asarray(alpha)[:, None]}


def steps_at(f: Function, knots: Array, sharpness: float | Array = 10.0) -> Params:
    """Params for ``cybenko(H, heaviside)`` or ``cybenko(H, sigmoid)``: a function of one variable as a sum of steps.

    Equations, for knots t_1 < … < t_H with steps between them whose heights are the increments of f::

        a(x) = f(t_1) + Σ_{h=2}^H (f(t_h) − f(t_{h−1})) σ(k (x − s_h)),       s_h = (t_{h−1} + t_h)/2
             = Σ_h p_h(x) f(t_h),      p_h(x) = σ(k (x − s_h)) − σ(k (x − s_{h+1})),   Σ_h p_h = 1

    The constant is a neuron that always fires. With `heaviside`, a is a staircase with a(t_h) = f(t_h), whose error
    between t_1 and t_H is at most f's modulus of continuity at half the widest gap. With `sigmoid` it is an average of
    f's values at the knots near x; for a fixed k times the gap its error also tends to 0 with the gap.

    Args:
        f: a function from points [n, 1] to values [n].
        knots: t [H], increasing, H ≥ 2.
        sharpness: k times the smallest gap, > 0; at 10 a sigmoid makes 99 % of its step between the two knots. The
            staircase does not depend on it.

    Returns:
        The params, in the dtype of the knots.

    Raises:
        ValueError: knots that do not increase, or values of another shape or dtype.
    """
    t = _knots("steps_at", knots)
    checks.positive("sharpness", sharpness)
    heights = _values_of("steps_at", f, t[:, None])
    k = jnp.asarray(sharpness, t.dtype) / jnp.min(jnp.diff(t))
    w = jnp.full((1, len(t)), k).at[0, 0].set(0)
    w_0 = jnp.concatenate([jnp.full((1,), -_ALWAYS, t.dtype), k * (t[:-1] + t[1:]) / 2])
    return cybenko_params(jnp.diff(heights, prepend=0), w, w_0)


def unit_grid(d: int, points_per_axis: int, dtype: Any = None) -> Array:
    """A grid on the unit cube [0, 1]^d, including its faces.

    Args:
        d: dimension.
        points_per_axis: p ≥ 2.
        dtype: of the points; by default JAX's default for floats.

    Returns:
        The points [p^d, d], with the last coordinate varying fastest.

    Example:
        >>> unit_grid(2, 3).shape
        (9, 2)
    """
    d = checks.count("d", d)
    p = checks.count("points_per_axis", points_per_axis, least=2)
    axis = jnp.linspace(0, 1, p, dtype=dtype)
    return jnp.stack(jnp.meshgrid(*[axis] * d, indexing="ij"), axis=-1).reshape(-1, d)


def sup_error(f: Function, net: Layer, params: Params, state: State, grid: Array, chunk: int = 65536) -> Array:
    """The largest error ``max_x |a(x) − f(x)|`` over a grid, of the network in inference mode.

    Args:
        f: a function from points [n, d] to values [n].
        net: a layer with one output.
        params: of the network.
        state: of the network.
        grid: points [n, d], such as a `unit_grid`.
        chunk: number of points computed at a time, which bounds the memory.

    Returns:
        A scalar; NaN if any error is NaN.

    Raises:
        ValueError: a network of several outputs, or values of another shape or dtype.
    """
    checks.is_layer("sup_error", net)
    checks.rows("sup_error", grid)
    points = checks.count("number of points", grid.shape[0])
    chunk = min(checks.count("chunk", chunk), points)
    whole = points // chunk * chunk

    def largest(x: Array) -> Array:
        a = net.apply(params, state, x)
        lecture_checks.single_output("sup_error", net, a)
        return jnp.max(jnp.abs(a[:, 0] - _values_of("sup_error", f, x)))

    error = jnp.max(jax.lax.map(largest, grid[:whole].reshape(-1, chunk, grid.shape[1])))
    return error if whole == points else jnp.maximum(error, largest(grid[whole:]))


def fit_approximator(
    key: Array, f: Function, net: Layer, points: Array, *, steps: int, optimizer: Any = None, batch_size: int = 64
) -> tuple[Params, State]:
    """Train a network to approximate f at given points by the squared loss; the theorems are not constructive.

    Works under `jit`, which compiles it once for all keys, and under `vmap` over keys.

    Args:
        key: determines the initial weights and the batches.
        f: a function from points [n, d] to values [n].
        net: a layer with one output.
        points: [n, d], such as a `unit_grid`.
        steps: gradient steps.
        optimizer: by default ``adam(0.01)``.
        batch_size: points in a batch; all of them if there are fewer.

    Returns:
        The trained params and the state of the network.

    Raises:
        ValueError: a network of several outputs, values of another shape or dtype, numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f, net, points = lambda x: x[:, 0] * x[:, 1], cybenko(32), unit_grid(2, 17)
        >>> train = jax.jit(lambda key: fit_approximator(key, f, net, points, steps=2000))
        >>> bool(sup_error(f, net, *train(jax.random.key(0)), unit_grid(2, 101)) < 0.1)
        True
    """
    checks.is_layer("fit_approximator", net)
    checks.rows("fit_approximator", points)
    data = points, _values_of("fit_approximator", f, points)
    batch_size = min(checks.count("batch_size", batch_size), points.shape[0])
    learn = trainer(net, squared, adam(0.01) if optimizer is None else optimizer, batch_size=batch_size)
    end, _ = train(learn, learn.init(key, data), data, steps)
    return end.params, end.layer_state


def _knots(where: str, values: Any) -> jax.Array:
    """The checked knots [H], two or more floats in increasing order."""
    checks.is_array(f"{where}: knots", values)
    values = jnp.asarray(values)
    if values.ndim != 1 or len(values) < 2 or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"{where}: expected two or more knots as floats [H], got {values.dtype} of shape {values.shape}. Make some "
            "by jnp.linspace(0, 1, 17)."
        )
    known = checks.concrete(values)
    if known is not None and not (np.diff(known) > 0).all():
        raise ValueError(f"{where}: expected strictly increasing knots, got {known.tolist()}. Sort them by jnp.unique.")
    return values


def _values_of(where: str, f: Any, x: jax.Array) -> jax.Array:
    """The checked values f(x) [n] at the points x [n, d], in x's dtype."""
    if not callable(f):
        raise TypeError(f"{where}: expected f as a function from points [n, d] to values [n], got {f!r}. Pass one.")
    y: Any = f(x)
    if jnp.shape(y) != x.shape[:1] or jnp.result_type(y) != x.dtype:
        raise ValueError(
            f"{where}: expected f from points [n, d] to values [n] of their dtype, got {jnp.result_type(y)} of shape "
            f"{jnp.shape(y)} for points {x.dtype} of shape {x.shape}. Write f of one coordinate j as x[:, j], and "
            "return one number for each point."
        )
    return jnp.asarray(y)
