"""Networks as indicator functions: against the inequalities themselves, at the faces, and refined by training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import adam, dense, heaviside, serial, squared, tanh, train, trainer
from fnn.lecture import Built, convex_polyhedron, half_space, regions, smooth, union

MILLION = 1_000_000

Polyhedron = tuple[np.ndarray, np.ndarray]


def box(low: Any, high: Any) -> Polyhedron:
    """low < x < high as inequalities ⟨x, normal⟩ > offset."""
    eye = np.eye(len(low))
    return np.concatenate([eye, -eye]), np.concatenate([np.asarray(low), -np.asarray(high)]).astype(float)


def simplex(d: int) -> Polyhedron:
    """x_j > 0 and Σ x_j < 1."""
    return np.concatenate([np.eye(d), -np.ones((1, d))]), np.asarray([0.0] * d + [-1.0])


def around(center: Any, faces: int, seed: int) -> Polyhedron:
    """Random faces at distance 1/2 from a point, which lies inside."""
    normals = np.random.default_rng(seed).standard_normal((faces, len(center)))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return normals, normals @ np.asarray(center, float) - 0.5


def inside(x: np.ndarray, polyhedra: list[Polyhedron]) -> np.ndarray:
    """Any of the polyhedra, one inequality after another."""
    found = np.zeros(len(x), bool)
    for normals, offsets in polyhedra:
        within = np.ones(len(x), bool)
        for normal, offset in zip(normals, offsets, strict=True):
            within &= x @ normal > offset
        found |= within
    return found


def build(polyhedra: list[Polyhedron], dtype: Any = jnp.float64) -> Built:
    """One polyhedron by two layers, several by three."""
    arrays = [(jnp.asarray(normals, dtype), jnp.asarray(offsets, dtype)) for normals, offsets in polyhedra]
    return union(arrays) if len(arrays) > 1 else convex_polyhedron(*arrays[0])


def indicator(built: Built, x: np.ndarray) -> np.ndarray:
    a = np.asarray(jax.jit(built.net.apply)(built.params, built.state, jnp.asarray(x)))
    assert a.shape == (len(x), 1)
    assert a.dtype == x.dtype
    return a[:, 0]


def drawn(d: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(d).uniform(-1.2, 1.2, (MILLION, d)).astype(dtype)


CONVEX = {
    "cube, d=3": [box([-1] * 3, [1, 0.7, 1])],
    "simplex, d=2": [simplex(2)],
    "random, d=5": [around([0, 0.1, 0, 0, 0], 9, seed=2)],
}
UNIONS = {
    "L": [box([-1, -1], [1, 0]), box([-1, -1], [0, 1])],
    "two boxes apart": [box([-1, -1], [-0.2, 0.5]), box([0.3, -0.7], [1, 1])],
    "two quadrants": [(np.eye(2), np.zeros(2)), (-np.eye(2), np.zeros(2))],
    "cube, simplex and more, d=3": [box([-1] * 3, [-0.1] * 3), simplex(3), around([0.4, -0.4, 0.1], 8, seed=3)],
    "d=5": [around([0.5] * 5, 8, seed=4), around([-0.5] * 5, 6, seed=5)],
}
REGIONS = CONVEX | UNIONS

every_region = pytest.mark.parametrize("polyhedra", REGIONS.values(), ids=REGIONS.keys())


# Against the inequalities


@every_region
def test_a_million_points_are_told_as_the_inequalities_tell_them(polyhedra):
    x = drawn(polyhedra[0][0].shape[1])
    want = inside(x, polyhedra)
    assert 0.001 < want.mean() < 0.999
    np.testing.assert_array_equal(indicator(build(polyhedra), x), want)


@pytest.mark.parametrize("name", ["random, d=5", "two boxes apart"])
def test_float32_differs_within_rounding_of_a_face_only(name):
    polyhedra = [(n.astype(np.float32), o.astype(np.float32)) for n, o in REGIONS[name]]
    x = drawn(polyhedra[0][0].shape[1], np.float32)
    normals, offsets = (np.concatenate(parts).astype(np.float64) for parts in zip(*polyhedra, strict=True))
    exact = x.astype(np.float64)
    band = x.shape[1] * np.finfo(np.float32).eps * (np.abs(exact) @ np.abs(normals).T)
    near_a_face = (np.abs(exact @ normals.T - offsets) <= band).any(axis=1)
    assert near_a_face.mean() < 1e-4
    differ = indicator(build(polyhedra, jnp.float32), x) != inside(exact, polyhedra)
    assert not (differ & ~near_a_face).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["simplex, d=2", "L", "two quadrants"])
def test_points_on_faces_and_corners_are_outside(name, dtype):
    axis = np.arange(-10, 11, dtype=dtype) / 8
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    want = inside(x, REGIONS[name])
    normals, offsets = REGIONS[name][0]
    on_a_face = (x @ normals.T == offsets).any(axis=1)
    assert on_a_face.sum() > 20
    np.testing.assert_array_equal(indicator(build(REGIONS[name], dtype), x), want)


def test_the_seam_of_polyhedra_that_touch_is_outside():
    x = np.asarray([[0.5, 0.5], [1.0, 0.5], [1.5, 0.5]])
    touching = build([box([0, 0], [1, 1]), box([1, 0], [2, 1])])
    assert indicator(touching, x).tolist() == [1, 0, 1]


def test_a_half_space_is_one_neuron():
    normal, x = jnp.asarray([3.0, -4.0]), drawn(2)
    built = half_space(normal, 0.5)
    assert [leaf.size for leaf in jax.tree.leaves(built.params)] == [1, 2]
    np.testing.assert_array_equal(indicator(built, x), x @ np.asarray(normal) > 0.5)
    assert indicator(built, np.asarray([[0.5, 0.25], [0.5, 0.24]])).tolist() == [0, 1]


def test_layers_are_as_many_as_the_slide_says():
    assert str(build(CONVEX["simplex, d=2"]).net) == "serial(dense(3, heaviside), dense(1, heaviside))"
    assert str(build(UNIONS["L"]).net) == "serial(dense(8, heaviside), dense(2, heaviside), dense(1, heaviside))"


def test_a_union_of_one_is_the_polyhedron():
    polyhedron, x = CONVEX["simplex, d=2"][0], drawn(2)[:1000]
    one = union([(jnp.asarray(polyhedron[0]), jnp.asarray(polyhedron[1]))])
    np.testing.assert_array_equal(indicator(one, x), inside(x, [polyhedron]))


def test_a_family_of_polyhedra_is_vmapped():
    normals, offsets = box([0, 0], [1, 1])
    x = drawn(2)[:500]

    def told(offsets: jax.Array) -> jax.Array:
        built = convex_polyhedron(jnp.asarray(normals), offsets)
        return built.net.apply(built.params, built.state, jnp.asarray(x))[:, 0]

    got = jax.jit(jax.vmap(told))(jnp.stack([jnp.asarray(offsets), jnp.asarray(offsets - 0.3)]))
    np.testing.assert_array_equal(got, [inside(x, [(normals, o)]) for o in (offsets, offsets - 0.3)])


# The smooth version


def numpy_smooth(x: np.ndarray, polyhedra: list[Polyhedron], k: float) -> np.ndarray:
    """The equations of a union, with σ(kS) for [S > 0]."""
    step = lambda S: 1 / (1 + np.exp(-k * S))  # noqa: E731
    ands = [step(sum(step(x @ n - o) for n, o in zip(*p, strict=True)) - (len(p[1]) - 0.5)) for p in polyhedra]
    return step(sum(ands) - 0.5)


def test_smooth_has_a_sigmoid_for_every_threshold():
    x = drawn(2)[:200]
    soft = smooth(build(UNIONS["two boxes apart"]), 3.0)
    np.testing.assert_allclose(indicator(soft, x), numpy_smooth(x, UNIONS["two boxes apart"], 3.0), rtol=1e-12)


def test_smooth_takes_neurons_without_a_bias():
    params = ({"w": jnp.asarray([[1.0, -1.0]])}, {"w": jnp.asarray([[2.0], [1.0]]), "b": jnp.asarray([-0.5])})
    hard = Built(serial(dense(2, heaviside, bias=False), dense(1, heaviside)), params, ((), ()))
    soft, x = smooth(hard, 4.0), drawn(1)[:100]
    step = lambda S: 1 / (1 + np.exp(-4 * S))  # noqa: E731
    np.testing.assert_allclose(indicator(soft, x), step(2 * step(x) + step(-x) - 0.5)[:, 0], rtol=1e-12)


def test_smooth_tends_to_the_hard_network_away_from_the_faces():
    polyhedra, x = UNIONS["cube, simplex and more, d=3"], drawn(3)[:20_000]
    away = np.min([np.abs(x @ n.T - o).min(axis=1) for n, o in polyhedra], axis=0) > 0.02
    gaps = [
        np.abs(indicator(smooth(build(polyhedra), k), x) - inside(x, polyhedra))[away].max() for k in (30, 300, 1000)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-6


def test_training_refines_a_perturbed_polyhedron():
    normals, offsets = box([-0.6, -0.4], [0.5, 0.7])
    x = np.random.default_rng(0).uniform(-1, 1, (4000, 2))
    want = inside(x, [(normals, offsets)])
    noise = np.random.default_rng(1)
    moved = normals + 0.2 * noise.standard_normal(normals.shape), offsets + np.asarray([0.2, -0.2, 0.1, 0.25])
    perturbed = build([moved])
    soft = smooth(perturbed, 30.0)
    data = jnp.asarray(x), jnp.asarray(want, jnp.float64)
    learn = trainer(soft.net, squared, adam(0.03), batch_size=100)
    start = learn.init(jax.random.key(0), data)._replace(params=soft.params)
    end, metrics = train(learn, start, data, 2000, every=200)
    assert metrics["loss"][-1] < metrics["loss"][0] / 4
    wrong = [(indicator(perturbed._replace(params=p), x) != want).mean() for p in (perturbed.params, end.params)]
    assert wrong[0] > 0.1
    assert wrong[1] < wrong[0] / 4


def test_a_dtype_represents_all_halves_of_its_sums_or_is_refused() -> None:
    """Float32 has whole numbers and their halves below 2^23."""
    regions._exact_in([2**22, -(2**22) + 1], jnp.float32)
    with pytest.raises(ValueError, match="got float32 with its 24 bits"):
        regions._exact_in([2**22, -(2**22)], jnp.float32)


# Bad input

NORMALS, OFFSETS = jnp.eye(2), jnp.zeros(2)
untyped: Any = regions
WRONG = {
    "one row": (lambda: convex_polyhedron(NORMALS[0], OFFSETS), ValueError, r"\[m, d\].*\(2,\).*one row"),
    "offsets of another number": (lambda: convex_polyhedron(NORMALS, OFFSETS[:1]), ValueError, r"\(1,\)"),
    "no half-space": (lambda: convex_polyhedron(NORMALS[:0], OFFSETS[:0]), ValueError, "at least one"),
    "lists": (lambda: untyped.convex_polyhedron([[1.0]], [0.0]), TypeError, r"normals: expected an array, got list"),
    "integers": (lambda: convex_polyhedron(NORMALS.astype(int), OFFSETS), TypeError, "int64.*Convert by astype"),
    "two dtypes": (lambda: convex_polyhedron(NORMALS, OFFSETS.astype("float32")), TypeError, "float64 and float32"),
    "NaN": (lambda: convex_polyhedron(NORMALS, OFFSETS * jnp.nan), ValueError, "finite offsets"),
    "a normal of zeros": (lambda: convex_polyhedron(NORMALS.at[1].set(0), OFFSETS), ValueError, r"zeros.*row \[1\]"),
    "half_space of a matrix": (lambda: half_space(NORMALS, 0.0), ValueError, "shapes"),
    "half_space at infinity": (lambda: half_space(OFFSETS + 1, jnp.inf), ValueError, "offset must be a finite number"),
    "half_space of zeros": (lambda: half_space(OFFSETS, 1.0), ValueError, "zeros"),
    "half_space of a list": (lambda: untyped.half_space([1.0], 1.0), TypeError, "array, got list"),
    "union of one pair": (
        lambda: untyped.union((NORMALS, OFFSETS)),
        TypeError,
        r"For a single polyhedron write \[\(normals",
    ),
    "union of nothing": (lambda: union([]), TypeError, "at least one"),
    "union of two dimensions": (
        lambda: union([(NORMALS, OFFSETS), (jnp.eye(3), jnp.zeros(3))]),
        ValueError,
        "one dimension and dtype, got.*2.*3",
    ),
    "union names the polyhedron": (
        lambda: union([(NORMALS, OFFSETS), (NORMALS, OFFSETS[:1])]),
        ValueError,
        "polyhedron 1",
    ),
    "cells as numbers": (
        lambda: regions.two_layer_region(NORMALS, OFFSETS, lambda cells: cells[:, 0] * 1),
        ValueError,
        r"to bools \[cells\], got int\d+ of shape \(4,\)",
    ),
    "cells not joined": (
        lambda: regions.two_layer_region(NORMALS, OFFSETS, lambda cells: cells),
        ValueError,
        r"shape \(4, 2\)",
    ),
    "cells that no neuron separates": (
        lambda: regions.two_layer_region(NORMALS, OFFSETS, lambda cells: cells[:, 0] != cells[:, 1]),
        ValueError,
        r"got cells inside, 1/2 of 01 \+ 1/2 of 10, .* cells outside, 1/2 of 00 \+ 1/2 of 11\. Use three",
    ),
    "sharpness 0": (lambda: smooth(half_space(OFFSETS + 1, 0.0), 0.0), ValueError, "sharpness must be.*> 0"),
    "smooth of what has no weights": (
        lambda: smooth(Built(serial(serial(dense(1, tanh))), (({},),), (((),),)), 1.0),
        ValueError,
        "threshold neurons in layers.*half_space",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), WRONG.values(), ids=WRONG.keys())
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
