"""Networks that are the indicator functions of regions (slide "Which functions can a net represent").

====================== ======== ============================================================================
region                 layers   how
====================== ======== ============================================================================
`half_space`           1        a threshold neuron [⟨x, normal⟩ > offset]
`convex_polyhedron`    2        AND of half-spaces
`two_layer_region`     2        any cells of half-spaces that one neuron separates from the other cells
`union`                3        OR of ANDs of half-spaces
====================== ======== ============================================================================

AND of m neurons is [Σ x_k − (m − ½) > 0], OR is [Σ x_k − ½ > 0]: the slide's neurons with m inputs instead of two.

Erratum: the slide claims that two layers represent polyhedral regions that are neither convex nor connected. This holds
for some: x < 0 or x > 1 is an OR of half-spaces. It fails for others, such as the two quadrants with x¹x² > 0: crossing
the line x¹ = 0 changes the sum in the second layer by the same amount everywhere, but the output would have to rise
where x² > 0 and fall where x² < 0. `two_layer_region` finds the second layer for given half-spaces, or proves that none
exists: an L and a square frame are two layers on the half-spaces of their edges, two squares on a diagonal are not.
Three layers represent every union of polyhedra.

Boundary. H(0) = 0, so every inequality is strict and every region open: a point on a face is outside, and so is one on
the seam of two polyhedra that only touch; let them overlap to cover it. A closed half-space is the complement of an
open one.

Rounding. Sums of 0 and 1 are exact, so the networks compute exactly the region of their first layer's inequalities with
the rounded ⟨x, normal⟩. These can differ from the inequalities of real numbers only for x within rounding of a face,
``|⟨x, normal⟩ − offset| ≤ d·eps·Σ|x_j normal_j|``; if all products and sums are exact, as for small whole numbers or
halves, they never do. Hardware that multiplies float32 matrices with lower precision needs
``jax.default_matmul_precision("highest")`` for this.

Example:
    >>> import jax.numpy as jnp
    >>> inward = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> square = convex_polyhedron(inward, jnp.array([0.0, -1.0, 0.0, -1.0]))
    >>> square.net
    serial(dense(4, heaviside), dense(1, heaviside))
    >>> x = jnp.array([[0.5, 0.5], [0.5, 1.0], [0.5, 2.0]])
    >>> square.net.apply(square.params, square.state, x)[:, 0].tolist()
    [1.0, 0.0, 0.0]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Activation, Array, Layer, Params
from fnn.lecture import _checks as lecture_checks
from fnn.lecture._neuron_parts import is_neurons
from fnn.lecture.arrangements import arrangement_cells, separating_neuron
from fnn.lecture.neurons import Built
from fnn.nn.activations import heaviside, sigmoid
from fnn.nn.compositions import serial
from fnn.nn.neurons import dense


def half_space(normal: Array, offset: float | Array) -> Built:
    """The open half-space ⟨x, normal⟩ > offset by one threshold neuron, a(x) = [⟨x, normal⟩ − offset > 0].

    Args:
        normal: [d] floats, not all 0, pointing into the half-space.
        offset: a number, the lecture's weight w_0.

    Returns:
        A `Built` network from x [n, d] to {0, 1} [n, 1].

    Raises:
        ValueError: another shape, a value that is not finite, or a normal of zeros.
        TypeError: a normal that is not an array of floats.

    Example:
        >>> import jax.numpy as jnp
        >>> above = half_space(jnp.array([-1.0, 1.0]), 0.0)
        >>> above.net.apply(above.params, above.state, jnp.array([[1.0, 2.0], [1.0, 1.0]]))[:, 0].tolist()
        [1.0, 0.0]
    """
    checks.is_array("half_space: normal", normal)
    checks.finite("offset", offset)
    normals, offsets = lecture_checks.half_spaces("half_space", normal[None], jnp.asarray(offset, normal.dtype)[None])
    return _thresholds({"w": normals.T, "b": -offsets})


def convex_polyhedron(normals: Array, offsets: Array) -> Built:
    """The open convex polyhedron of all x with ⟨x, normal_k⟩ > offset_k for k = 1 … m, by two layers.

    Equations::

        x_k  = [⟨x, normal_k⟩ − offset_k > 0]
        a(x) = [Σ_k x_k − (m − ½) > 0]

    Args:
        normals: [m, d] floats, pointing inside; for A x < b they are −A.
        offsets: [m] of the same dtype; for A x < b they are −b.

    Returns:
        A `Built` network ``serial(dense(m, heaviside), dense(1, heaviside))`` from x [n, d] to {0, 1} [n, 1].

    Raises:
        ValueError: other shapes, values that are not finite, or a normal of zeros.
        TypeError: inputs that are not arrays of floats of one dtype.
    """
    normals, offsets = lecture_checks.half_spaces("convex_polyhedron", normals, offsets)
    return _thresholds({"w": normals.T, "b": -offsets}, _all_of([len(offsets)], normals.dtype))


def two_layer_region(normals: Array, offsets: Array, inside: Callable[[np.ndarray], Any]) -> Built:
    """The region of some cells of m half-spaces by two layers, if two layers suffice; it need not be connected.

    Equations, with weights v and v_0 such that a = 1 in the region's cells and 0 in all others::

        x_k  = [⟨x, normal_k⟩ − offset_k > 0]
        a(x) = [Σ_k v_k x_k − v_0 > 0]

    The weights are found exactly, or proved not to exist, by `fnn.lecture.arrangements`; only existing cells matter.
    The v_k are whole, and all their sums exact. A point on one border is outside of that half-space and belongs to the
    cell beyond; where several borders meet, its x_k may be those of no cell, and the output may be 0 or 1.

    Args:
        normals: [m, d] floats, as in `convex_polyhedron`; not traced.
        offsets: [m] of the same dtype.
        inside: the cells of the region, as a function from bools [cells, m], whether each cell is in each half-space,
            to bools [cells].

    Returns:
        A `Built` network ``serial(dense(m, heaviside), dense(1, heaviside))`` from x [n, d] to {0, 1} [n, 1].

    Raises:
        ValueError: no neuron separates the region's cells from the others; the message lists cells that prove it, and
            `union` builds such regions with three layers. Shapes or values as in `convex_polyhedron`; weights too large
            for the dtype.
        TypeError: inputs that are not arrays of floats of one dtype, or are traced; `inside` is not a function.

    Example: the outside of a strip is neither convex nor connected; two opposite quadrants need three layers.
        >>> import jax.numpy as jnp
        >>> normals = jnp.array([[1.0], [-1.0]])
        >>> outside = two_layer_region(normals, jnp.array([1.0, 0.0]), lambda cells: cells[:, 0] | cells[:, 1])
        >>> outside.net
        serial(dense(2, heaviside), dense(1, heaviside))
        >>> outside.net.apply(outside.params, outside.state, jnp.array([[-1.0], [0.5], [2.0]]))[:, 0].tolist()
        [1.0, 0.0, 1.0]
        >>> try:
        ...     two_layer_region(jnp.eye(2), jnp.zeros(2), lambda cells: cells[:, 0] == cells[:, 1])
        ... except ValueError as error:
        ...     print(str(error)[:65])
        two_layer_region: expected cells that one neuron separates from t
    """
    lecture_checks.known_half_spaces("two_layer_region", normals, offsets)
    cells = arrangement_cells(normals, offsets)
    within = _cells_inside(inside, cells)
    found, shares = separating_neuron(cells, within)
    v, v_0 = _separated(found, shares, cells, within)
    _exact_in([*v, v_0], normals.dtype)
    second = {"w": jnp.asarray(v, normals.dtype)[:, None], "b": jnp.asarray([-v_0], normals.dtype)}
    return _thresholds({"w": jnp.asarray(normals).T, "b": -jnp.asarray(offsets)}, second)


def union(polyhedra: Sequence[tuple[Array, Array]]) -> Built:
    """The union of open convex polyhedra by three layers: half-spaces, AND for each polyhedron, OR.

    Equations, with polyhedron k made of the half-spaces M_k, m_k of them::

        x_j  = [⟨x, normal_j⟩ − offset_j > 0]        for all half-spaces of all polyhedra
        y_k  = [Σ_{j∈M_k} x_j − (m_k − ½) > 0]
        a(x) = [Σ_k y_k − ½ > 0]

    Args:
        polyhedra: pairs (normals [m_k, d], offsets [m_k]) as of `convex_polyhedron`, of one d and dtype.

    Returns:
        A `Built` network from x [n, d] to {0, 1} [n, 1].

    Raises:
        ValueError: other shapes, polyhedra of several dimensions or dtypes, values that are not finite, a normal of 0.
        TypeError: an input that is not a sequence of pairs of arrays of floats.

    Example:
        >>> import jax.numpy as jnp
        >>> ends = jnp.array([[1.0], [-1.0]])
        >>> intervals = union([(ends, jnp.array([0.0, -1.0])), (ends, jnp.array([2.0, -3.0]))])
        >>> intervals.net
        serial(dense(4, heaviside), dense(2, heaviside), dense(1, heaviside))
        >>> intervals.net.apply(intervals.params, intervals.state, jnp.array([[0.5], [1.5], [2.5]]))[:, 0].tolist()
        [1.0, 0.0, 1.0]
    """
    pairs = _polyhedra(polyhedra)
    normals, offsets = (jnp.concatenate(parts) for parts in zip(*pairs, strict=True))
    any_of = {"w": jnp.ones((len(pairs), 1), normals.dtype), "b": jnp.full((1,), -0.5, normals.dtype)}
    return _thresholds(
        {"w": normals.T, "b": -offsets},
        _all_of([len(offsets) for _, offsets in pairs], normals.dtype),
        any_of,
    )


def smooth(built: Built, sharpness: float | Array) -> Built:
    """The same network with sigmoids instead of thresholds and S multiplied by k: σ(kS) → [S > 0] as k → ∞ for S ≠ 0.

    Gradients pass through it, so training can refine the region: start from
    ``trainer.init(key, data)._replace(params=soft.params)``. The refined params also fit the hard network,
    ``built.net.apply(refined, built.state, x)``, as [kS > 0] = [S > 0].

    Args:
        built: a network of threshold neurons in layers.
        sharpness: k > 0, a number or a tracer. The step at a face is about 4/(k‖normal‖) wide; corners are rounded.

    Returns:
        A `Built` network with outputs in (0, 1).

    Raises:
        ValueError: a sharpness that is not positive, or a network with layers other than dense.

    Example:
        >>> import jax.numpy as jnp
        >>> soft = smooth(half_space(jnp.array([1.0]), 0.0), sharpness=4.0)
        >>> soft.net
        serial(dense(1, sigmoid))
        >>> print(soft.net.apply(soft.params, soft.state, jnp.array([[0.0], [0.5]]))[:, 0].round(2))
        [0.5  0.88]
    """
    _threshold_network(built.net, built.params)
    checks.positive("sharpness", sharpness)
    scaled = jax.tree.map(lambda w: jnp.asarray(sharpness, w.dtype) * w, built.params)
    return Built(_layers(scaled, sigmoid), scaled, built.state)


def _thresholds(*params: Params) -> Built:
    return Built(_layers(params, heaviside), params, tuple(() for _ in params))


def _layers(params: tuple[Params, ...], activation: Activation) -> Layer:
    return serial(*(dense(p["w"].shape[1], activation, bias="b" in p) for p in params))


def _all_of(sizes: list[int], dtype: jnp.dtype) -> Params:
    """The params of one AND neuron for each group of consecutive neurons of the given sizes."""
    group = jnp.repeat(jnp.arange(len(sizes)), jnp.asarray(sizes), total_repeat_length=sum(sizes))
    return {"w": jax.nn.one_hot(group, len(sizes), dtype=dtype), "b": 0.5 - jnp.asarray(sizes, dtype)}


def _cells_inside(inside: Any, cells: np.ndarray) -> np.ndarray:
    """Whether each of the cells [c, m] belongs to the region, checked bools [c]."""
    if not callable(inside):
        raise TypeError(
            "two_layer_region: expected inside as a function from bools [cells, m] to bools [cells], got "
            f"{inside!r}. Write lambda cells: cells[:, 0] | cells[:, 1]."
        )
    found = np.asarray(inside(cells))
    if found.shape != cells.shape[:1] or found.dtype != bool:
        raise ValueError(
            f"two_layer_region: expected inside from bools [cells, m] = {cells.shape} to bools [cells], got "
            f"{found.dtype} of shape {found.shape}. Join columns by &, | and ~, or rows by .all(axis=1)."
        )
    return found


def _separated(neuron: Any, shares: Any, cells: np.ndarray, inside: np.ndarray) -> Any:
    """The neuron that separates the cells inside from those outside; without one, `shares` prove that none exists."""
    if neuron is not None:
        return neuron
    sums = [
        " + ".join(
            f"{2 * share} of {''.join(map(str, cell.astype(int)))}"
            for share, cell, within in zip(shares, cells, inside, strict=True)
            if share and within == side
        )
        for side in (True, False)
    ]
    raise ValueError(
        "two_layer_region: expected cells that one neuron separates from the others, got cells inside, "
        f"{sums[0]}, with the same mean as cells outside, {sums[1]}. Use three layers, by union, or other half-spaces "
        "in the first layer."
    )


def _exact_in(weights: Any, dtype: Any) -> None:
    """Raise ValueError unless the dtype represents all sums of the weights, whole or half, without rounding."""
    digits = jnp.finfo(dtype).nmant + 1
    if 2 * sum(map(abs, weights)) >= 2**digits:
        raise ValueError(
            f"two_layer_region: expected a dtype that represents all sums of the whole weights {weights}, got "
            f"{np.dtype(dtype)} with its {digits} bits. Pass normals and offsets as float64."
        )


def _polyhedra(pairs: Any) -> list[tuple[jax.Array, jax.Array]]:
    """The checked pairs (normals [m_k, d], offsets [m_k]), at least one, of one d and dtype."""
    if not isinstance(pairs, Sequence) or not pairs or not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
        raise TypeError(
            "union: expected a list of pairs (normals [m, d], offsets [m]), at least one, got "
            f"{type(pairs).__name__} of {[type(p).__name__ for p in pairs] if isinstance(pairs, Sequence) else '?'}. "
            "For a single polyhedron write [(normals, offsets)]."
        )
    checked = [lecture_checks.half_spaces(f"union: polyhedron {k}", *pair) for k, pair in enumerate(pairs)]
    kinds = [(normals.shape[1], str(normals.dtype)) for normals, _ in checked]
    if len(set(kinds)) > 1:
        raise ValueError(f"union: expected polyhedra of one dimension and dtype, got {kinds}. Make them equal.")
    return checked


def _threshold_network(net: Any, params: Any) -> None:
    """Raise an error unless the network has the params of consecutive dense layers."""
    checks.is_layer("smooth", net)
    is_dense = isinstance(params, tuple) and all(map(is_neurons, params))
    if not is_dense or not params:
        raise ValueError(
            f"smooth: expected a network of threshold neurons in layers, with params ({{'w', 'b'}}, …), got {net} with "
            f"params {jax.tree.structure(params)}. Make one by half_space, convex_polyhedron or union."
        )
