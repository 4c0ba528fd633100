"""One layer bounds a half-space, two layers a convex polyhedron, three layers any union of polyhedra.

Command: ``python -m experiments regions``; 17 seconds on two CPU cores. Expect no error of the built networks, and that
two layers of threshold neurons reach some regions that are not convex or not connected, but not two opposite quadrants,
which four tanh neurons do.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

import fnn
from experiments import report as r
from experiments.report.plots import DIVERGING
from fnn.networks import apply, convex_polyhedron, half_space, union

Polygon = np.ndarray
"""its edges [m, 3]: normals and offsets of ⟨x, normal⟩ > offset"""
SIDE = 128
"""points of the grid on [−1, 1]² along an axis"""
WIDTH = 8
"""neurons of a hidden layer that is trained"""


def box(left: float, right: float, below: float, above: float) -> Polygon:
    """A rectangle with sides along the axes."""
    return np.array([[1, 0, left], [-1, 0, -right], [0, 1, below], [0, -1, -above]])


REGIONS: dict[str, list[Polygon]] = {
    "half plane": [np.array([[0.5, 1, 0.125]])],
    "pentagon": [np.array([[0, 1, -0.5], [-1, 0.25, -0.5], [-0.75, -1, -0.75], [0.75, -1, -0.75], [1, 0.25, -0.5]])],
    "outside of a strip": [np.array([[1, 0.5, 0.375]]), np.array([[-1, -0.5, 0.375]])],
    "L": [box(-0.75, 0.75, -0.75, -0.25), box(-0.75, -0.25, -0.75, 0.75)],
    "two squares": [box(-0.75, -0.125, -0.75, -0.125), box(0.125, 0.75, 0.125, 0.75)],
    "two quadrants": [np.array([[1, 0, 0], [0, 1, 0]]), np.array([[-1, 0, 0], [0, -1, 0]])],
    "frame": [
        *(box(-0.75, 0.75, -0.75, -0.375), box(-0.75, 0.75, 0.375, 0.75)),
        *(box(-0.75, -0.375, -0.75, 0.75), box(0.375, 0.75, -0.75, 0.75)),
    ],
}
"""unions of open convex polygons, in whole numbers of eighths, with which float32 computes exactly"""
CONVEX = ("half plane", "pentagon")
STEP = 2 / SIDE
GRID = np.stack(np.meshgrid(*[np.arange(-1 + STEP / 2, 1, STEP)] * 2), axis=-1).reshape(-1, 2)
"""points that are on none of the lines [128², 2]"""


def inside(region: list[Polygon], x: np.ndarray) -> np.ndarray:
    """Whether points [n, 2] are in a union of polygons, from its inequalities."""
    return np.any([(x @ edges[:, :2].T > edges[:, 2]).all(axis=1) for edges in region], axis=0)


def random_polygons(count: int, polygons: int, edges: int) -> np.ndarray:
    """Convex polygons around random points, some of them without end on a side [count, polygons, edges, 3]."""
    random = np.random.default_rng(2026)
    normals = random.integers(-8, 9, (count, polygons, edges, 2))
    normals[~normals.any(axis=-1)] = 1
    center = random.integers(-6, 7, (count, polygons, 1, 2)) / 8
    offsets = (normals * center).sum(axis=-1) - random.integers(1, 5, (count, polygons, edges))
    return np.concatenate([normals, offsets[..., None]], axis=-1)


@jax.jit
def built(polygons: jax.Array) -> tuple[jax.Array, ...]:
    """What the networks of one, two and three layers say of the grid, for the edges [regions, polygons, edges, 3]."""
    x = jnp.asarray(GRID, jnp.float32)

    def answers(region: jax.Array) -> tuple[jax.Array, ...]:
        normals, offsets = region[..., :2], region[..., 2]
        of_layers = (
            half_space(normals[0, 0], offsets[0, 0]),
            convex_polyhedron(normals[0], offsets[0]),
            union([*zip(normals, offsets, strict=True)]),
        )
        return tuple(apply(network, x)[:, 0] for network in of_layers)

    return jax.vmap(answers)(polygons)


def two_layers_reach(region: list[Polygon], more: np.ndarray) -> bool:
    """Whether some threshold neuron, given the half-spaces of all edges and some more lines, is 1 in the region alone.

    A linear program: weights v and v_0 with ±(⟨v, x⟩ − v_0) ≥ 1 for the first layer's answers x in every cell of the
    plane. A cell has a corner, where two lines meet, or it meets the grid.
    """
    lines = np.concatenate([*region, more])
    i, j = np.triu_indices(len(lines), 1)
    pairs = np.stack([lines[i], lines[j]], axis=1)
    pairs = pairs[np.abs(np.linalg.det(pairs[..., :2])) > 1e-9]
    corners = np.linalg.solve(pairs[..., :2], pairs[..., 2:])[..., 0]
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False) + 0.01
    around = 1e-5 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points = np.concatenate([GRID[::7], (corners[:, None] + around[None]).reshape(-1, 2)])
    cells, first = np.unique(points @ lines[:, :2].T > lines[:, 2], axis=0, return_index=True)
    sign = np.where(inside(region, points[first]), -1, 1)[:, None]
    constraints = sign * np.concatenate([cells, -np.ones_like(sign)], axis=1)
    size = constraints.shape[1]
    return linprog(np.zeros(size), constraints, -np.ones(len(cells)), bounds=(None, None)).status == 0


def helpers() -> np.ndarray:
    """Lines to offer to the first layer beside the edges: four directions, seven offsets [28, 3]."""
    directions = np.array([[1, 0], [0, 1], [1, 1], [1, -1]])
    return np.array([[*direction, offset] for direction in directions for offset in np.linspace(-0.9, 0.9, 7)])


def smooth_quadrants() -> np.ndarray:
    """What two layers with four tanh neurons say of the grid: [g(x¹ − x²) − g(x¹ + x²) > 0], g(u) falling with |u|."""

    def g(u: np.ndarray) -> np.ndarray:
        return np.tanh(u + 1) - np.tanh(u - 1)

    return g(GRID[:, 0] - GRID[:, 1]) > g(GRID[:, 0] + GRID[:, 1])


def experiment_with(hidden: int, steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, region) -> share of the square where the trained network is wrong, and its map``."""
    x = jnp.asarray(GRID, jnp.float32)
    net = fnn.serial(*[fnn.dense(WIDTH, fnn.tanh)] * hidden, fnn.linear(1))
    learn = fnn.trainer(net, fnn.logistic_margin, fnn.adam(0.02), batch_size=64)

    def experiment(key: jax.Array, region: jax.Array) -> dict[str, jax.Array]:
        data = x, jnp.where(region, 1, -1).astype(jnp.int32)
        end, _ = fnn.run(learn, learn.init(key, data), data, steps)
        says = net.apply(end.params, end.state, x)[:, 0] > 0
        return {"wrong": jnp.mean((says != region).astype(jnp.float32)), "says": says.reshape(SIDE, SIDE)}

    return experiment


def _maps(says: dict[str, np.ndarray], targets: np.ndarray) -> r.Figure:
    """Maps [networks, regions] of the first seed."""
    first = {name: maps[0].reshape(targets.shape) for name, maps in says.items()}
    same = [region for region, answer in zip(REGIONS, first["one layer"], strict=True) if answer.min() == answer.max()]
    wrong = {name: np.mean(answers != targets, axis=1) for name, answers in first.items()}
    worst = [f"{name} are wrong most on the {list(REGIONS)[of.argmax()]}" for name, of in list(wrong.items())[1:]]
    with r.figure(8.4, 4.0) as canvas:
        panels = canvas.subplots(len(says), len(REGIONS))
        for row, (name, maps) in zip(panels, says.items(), strict=True):
            for axes, region, answer, target in zip(row, REGIONS, maps[0], targets, strict=True):
                axes.imshow(-1.0 * answer, cmap=DIVERGING, vmin=-1.6, vmax=1.6, extent=(-1, 1, -1, 1), origin="lower")
                side = np.linspace(-1 + STEP / 2, 1 - STEP / 2, SIDE)
                axes.contour(side, side, target.reshape(SIDE, SIDE), [0.5], colors="#e08a2c", linewidths=1.2)
                axes.set(xticks=(), yticks=())
                axes.grid(False)
                axes.spines[:].set(visible=True, alpha=0.3)
                if axes in panels[0]:
                    axes.set_title(region, fontsize=9)
            row[0].set_ylabel(name, fontsize=9)
        return r.finished(
            canvas,
            f"What trained networks of one, two and three layers ({WIDTH} tanh neurons in a hidden layer) take for the "
            "region, shaded, one seed; the true border is the line",
            "Three rows of seven maps. One layer matches the half plane, gives one answer for the whole square for "
            f"{', '.join(same) or 'none of them'}, and a half plane elsewhere. Two and three layers find the shapes, "
            f"with round corners; in this seed {' and '.join(worst)}.",
            narrowest=760,
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Build, solve, train, judge and draw."""
    steps = 500 if settings.quick else 3000
    count = 4 * settings.seeds
    log(f"networks with weights from the inequalities of {count} random regions")
    polygons = random_polygons(count, 3, 4)
    answers = built(jnp.asarray(polygons, jnp.float32))
    truth = [
        np.stack([inside(part(region), GRID) for region in polygons])
        for part in (lambda region: [region[0, :1]], lambda region: [region[0]], list)
    ]
    wrong = [int((np.asarray(says) != true).sum()) for says, true in zip(answers, truth, strict=True)]
    log("linear programs: what two layers of threshold neurons reach")
    none = np.zeros((0, 3))
    reached = {name: two_layers_reach(region, none) for name, region in REGIONS.items()}
    helped = {name: two_layers_reach(region, helpers()) for name, region in REGIONS.items()}
    targets = np.stack([inside(region, GRID) for region in REGIONS.values()])
    found = {}
    for hidden, name in enumerate(("one layer", "two layers", "three layers")):
        log(f"{name}: {settings.seeds} seeds × {len(REGIONS)} regions in one compiled call")
        found[name] = r.sweep_seeds(experiment_with(hidden, steps), settings, region=jnp.asarray(targets))
    outside = ~found["one layer"]["says"][:, list(REGIONS).index("pentagon")].any(axis=(1, 2))
    quadrants = int((smooth_quadrants() != targets[list(REGIONS).index("two quadrants")]).sum())
    of = {name: dict(zip(REGIONS, runs["wrong"].T, strict=True)) for name, runs in found.items()}
    polygon = r.at_least(
        "a trained neuron does not learn a convex polygon, a pentagon: wrong on at least 5 % of the square",
        0.05,
        of["one layer"]["pentagon"],
    )
    nonconvex = [name for name in REGIONS if name not in CONVEX]
    return r.Outcome(
        slide=6,
        lead=f"Networks of threshold neurons are built from the inequalities of {count} random regions and compared "
        f"with these at the {SIDE}² points of a grid. Then seven regions are asked of two layers exactly: a linear "
        "program finds the weights of the second layer or shows that there are none, for a first layer that has the "
        f"lines of the edges, and for one that has {len(helpers())} lines more. Last, networks of one, two and "
        f"three layers learn the seven regions from points of the grid, {steps} steps of Adam with batches of 64. "
        "Their hidden neurons are tanh, whose steps are as wide as they are learned. So what two layers of threshold "
        "neurons cannot do does not bind them: a sum of wide steps can bend; one of sharp steps jumps by the same "
        "amount along a whole line.",
        equation="x_j = [⟨x, normal_j⟩ > offset_j]\ny_k = [Σ_{j∈M_k} x_j − (m_k − ½) > 0]\na(x) = [Σ_k y_k − ½ > 0]",
        verdicts=[
            *(
                r.exactly(claim, errors, 0, f"{errors} of {count * len(GRID)} answers are wrong")
                for claim, errors in zip(
                    (
                        "one neuron is the indicator of any half-space",
                        "two layers are the indicator of any convex polyhedron",
                        "three layers are the indicator of any union of convex polyhedra",
                    ),
                    wrong,
                    strict=True,
                )
            ),
            r.exactly(
                "two layers of threshold neurons reach any polygonal region, not necessarily convex or connected",
                [helped[name] for name in REGIONS],
                expected=True,
                measured="with the lines of the edges: "
                + ", ".join(name for name in REGIONS if reached[name])
                + "; with more lines also: "
                + (", ".join(name for name in REGIONS if helped[name] and not reached[name]) or "none")
                + "; not: "
                + (", ".join(name for name in REGIONS if not helped[name]) or "none"),
                why="some such regions they reach, others not: across a line the second layer's sum changes by "
                "the same amount everywhere, but for two opposite quadrants the answer would have to rise at one end "
                "of the line and fall at the other; two squares on a diagonal are XOR of their columns and rows; three "
                "layers reach them all; none of this binds tanh neurons, whose steps are wide",
            ),
            r.exactly(
                "two opposite quadrants, which no two layers of threshold neurons reach, are exactly two layers with "
                "four tanh neurons: [g(x¹ − x²) > g(x¹ + x²)], g(u) = tanh(u + 1) − tanh(u − 1), which falls with |u|",
                quadrants,
                0,
                f"{quadrants} of {len(GRID)} answers are wrong",
            ),
            r.at_most(
                "a trained neuron learns a half plane: wrong on at most 1 % of the square",
                0.01,
                of["one layer"]["half plane"],
            ),
            polygon._replace(
                measured=f"{polygon.measured}; {outside.sum()} of {len(outside)} neurons answer “outside” everywhere"
            ),
            r.at_most(
                "two trained layers learn a convex polygon: wrong on at most 2 % of the square",
                0.02,
                of["two layers"]["pentagon"],
                why="the picture shows round corners; a likely cause: a sum of smooth steps turns corners as sharp as "
                "its weights are large, and these grow slowly",
            ),
            r.at_most(
                "three trained layers learn each of seven regions, from a half plane to a frame: wrong on at most "
                "2 % of the square",
                0.02,
                of["three layers"],
                why=f"a likely cause: the frame has eight lines for {WIDTH} neurons in the first layer, and training "
                "would have to find every one; round corners cost the rest",
            ),
            r.smaller(
                "where the region is not convex, three trained layers are wrong on less of the square than two",
                {name: (of["three layers"][name], of["two layers"][name]) for name in nonconvex},
                why="two layers suffice for the outside of a strip, an OR of two half planes",
            ),
        ],
        tables=[
            r.Table(
                "Two threshold layers, exactly, and the share of the square where trained networks are wrong: means "
                "over seeds with 95 % intervals",
                ("region", "two layers can", "with more lines", *found),
                [
                    (
                        name,
                        "yes" if reached[name] else "no",
                        "yes" if helped[name] else "no",
                        *(str(r.Interval.of(errors[name])) for errors in of.values()),
                    )
                    for name in REGIONS
                ],
            )
        ],
        figures=[_maps({name: runs["says"] for name, runs in found.items()}, targets)],
        numbers={
            "wrong answers of built networks": wrong,
            "two layers reach": reached,
            "two layers reach with more lines": helped,
            "share of the square that is wrong": {
                name: {region: r.Interval.of(values)._asdict() for region, values in errors.items()}
                for name, errors in of.items()
            },
        },
    )
