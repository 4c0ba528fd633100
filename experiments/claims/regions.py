"""One layer bounds a half-space, two layers a convex polyhedron, three layers any union of polyhedra.

Command: ``python -m experiments regions``; 17 seconds on two CPU cores. Expect no error of the built networks, and that
two layers of threshold neurons reach some regions that are not convex or not connected, but not two opposite quadrants,
which four tanh neurons do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

import fnn
from experiments import report as r
from fnn.lecture import apply, convex_polyhedron, half_space, union

Polygon = np.ndarray
"""its edges [m, 3]: normals and offsets of ⟨x, normal⟩ > offset"""
SIDE = 128
"""points of the grid on [−1, 1]² along an axis"""
WIDTH = 8
"""neurons of a hidden layer that is trained"""


EQUATION = r"""x_j = \left[\langle x, \text{normal}_j\rangle > \text{offset}_j\right]
y_k = \left[\sum_{j \in M_k} x_j - \left(m_k - \tfrac12\right) > 0\right]
a(x) = \left[\sum_k y_k - \tfrac12 > 0\right]"""
LEAD = (
    "Networks of threshold neurons are built from the inequalities of {count} random regions and compared with these "
    f"at the {SIDE}² points of a grid. Then it is decided exactly which of seven regions two layers can represent: a "
    "linear program finds the weights of the second layer or shows that there are none, for a first layer that has the "
    "lines of the edges, and for one that has {helpers} lines more. Last, networks of one, two and three layers learn "
    "the seven regions from points of the grid, {steps} steps of Adam with batches of 64. Their hidden neurons are "
    "tanh, whose steps are as wide as they are learned. So what two layers of threshold neurons cannot do does not "
    "bind them: a sum of wide steps can bend; one of sharp steps jumps by the same amount along a whole line."
)
INDICATORS = (
    r.Claim(
        "For any half-space there is a single threshold neuron that is 1 inside it and 0 outside.",
        quantity="wrong outputs",
    ),
    r.Claim(
        "For any convex polyhedron there are two layers of threshold neurons that are 1 inside it and 0 outside.",
        quantity="wrong outputs",
    ),
    r.Claim(
        "For any union of convex polyhedra there are three layers of threshold neurons that are 1 inside it and 0 "
        "outside.",
        quantity="wrong outputs",
    ),
)
ANY_REGION = r.Claim(
    "Two layers of threshold neurons represent any polygonal region, not necessarily convex or connected.",
    why="They represent some such regions and not others. Across a line of the first layer the second layer's sum "
    "changes by the same amount everywhere, but for two opposite quadrants the output would have to rise at one end of "
    "the line and fall at the other. Two squares on a diagonal are XOR of their columns and rows. Three layers "
    "represent all of them. None of this binds tanh neurons, whose steps are wide.",
    quantity="how two layers represent the region",
)
QUADRANTS = r.Claim(
    "Two opposite quadrants, which no two layers of threshold neurons represent, are represented exactly by two layers "
    "with four tanh neurons: there g(x¹ − x²) > g(x¹ + x²), where g(u) = tanh(u + 1) − tanh(u − 1) falls as |u| grows.",
    quantity="wrong outputs",
)
HALF_PLANE = r.Claim(
    "A trained neuron learns a half plane (it is wrong on at most 1 % of the square).",
    quantity="share of the square that is wrong",
)
NO_POLYGON = r.Claim(
    "A trained neuron does not learn a convex polygon, here a pentagon (it is wrong on at least 5 % of the square).",
    quantity="share of the square that is wrong",
)
POLYGON = r.Claim(
    "Two trained layers learn a convex polygon, here a pentagon (they are wrong on at most 2 % of the square).",
    why="The picture shows round corners. A likely cause: a sum of smooth steps turns corners as sharp as its weights "
    "are large, and these grow slowly.",
    quantity="share of the square that is wrong",
)
SEVEN = r.Claim(
    "Three trained layers learn each of seven regions, from a half plane to a frame (they are wrong on at most 2 % of "
    "the square).",
    why=f"A likely cause: the frame has eight lines for {WIDTH} neurons in the first layer, and training would have to "
    "find every one. Round corners cost the rest.",
    quantity="share of the square that is wrong",
)
THREE_LAYERS = r.Claim(
    "Where the region is not convex, three trained layers are wrong on a smaller part of the square than two.",
    why="Two layers suffice for the outside of a strip, an OR of two half planes.",
    quantity="share of the square that is wrong, three layers less two",
)


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

    def outputs(region: jax.Array) -> tuple[jax.Array, ...]:
        normals, offsets = region[..., :2], region[..., 2]
        of_layers = (
            half_space(normals[0, 0], offsets[0, 0]),
            convex_polyhedron(normals[0], offsets[0]),
            union([*zip(normals, offsets, strict=True)]),
        )
        return tuple(apply(network, x)[:, 0] for network in of_layers)

    return jax.vmap(outputs)(polygons)


def two_layers_reach(region: list[Polygon], more: np.ndarray) -> bool:
    """Whether some threshold neuron, given the half-spaces of all edges and some more lines, is 1 in the region alone.

    A linear program: weights v and v_0 with ±(⟨v, x⟩ − v_0) ≥ 1 for the first layer's outputs x in every cell of the
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
        end, _ = fnn.train(learn, learn.init(key, data), data, steps)
        says = net.apply(end.params, end.layer_state, x)[:, 0] > 0
        return {"wrong": jnp.mean((says != region).astype(jnp.float32)), "says": says.reshape(SIDE, SIDE)}

    return experiment


def _maps(says: dict[str, np.ndarray], targets: np.ndarray) -> r.Figure:
    """Maps [networks, regions] of the first seed."""
    first = {name: maps[0].reshape(targets.shape) for name, maps in says.items()}
    same = [region for region, answer in zip(REGIONS, first["one layer"], strict=True) if answer.min() == answer.max()]
    wrong = {name: np.mean(answers != targets, axis=1) for name, answers in first.items()}
    worst = [f"{name} are wrong most on the {list(REGIONS)[of.argmax()]}" for name, of in list(wrong.items())[1:]]
    with r.figure(4.4, 8.8) as canvas:
        panels = canvas.subplots(len(REGIONS), len(says))
        for column, (name, maps) in zip(panels.T, says.items(), strict=True):
            for axes, answer, target in zip(column, maps[0], targets, strict=True):
                axes.imshow(-1.0 * answer, cmap=r.DIVERGING, vmin=-1.6, vmax=1.6, extent=(-1, 1, -1, 1), origin="lower")
                side = np.linspace(-1 + STEP / 2, 1 - STEP / 2, SIDE)
                axes.contour(side, side, target.reshape(SIDE, SIDE), [0.5], colors="#e08a2c", linewidths=1.2)
                axes.set(xticks=(), yticks=())
                axes.grid(False)
                axes.spines[:].set(visible=True, alpha=0.3)
            column[0].set_title(name, fontsize=10)
        for row, region in zip(panels, REGIONS, strict=True):
            words = region.replace(" of ", "\nof ").replace("two ", "two\n")
            row[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=10)
        return r.finished(
            canvas,
            f"What trained networks of one, two and three layers ({WIDTH} tanh neurons in a hidden layer) take for the "
            "region, shaded, one seed; the true border is the line",
            "Seven rows of three maps. One layer matches the half plane, gives one output for the whole square for "
            f"{', '.join(same) or 'none of them'}, and a half plane elsewhere. Two and three layers find the shapes, "
            f"with round corners; in this seed {' and '.join(worst)}.",
        )


class Exact(NamedTuple):
    """Regions by networks of threshold neurons whose weights are written down or solved for."""

    wrong: list[int]
    """wrong outputs of networks of one, two and three layers for random regions"""
    reached: dict[str, bool]
    """whether two layers are 1 in a region alone, given the lines of its edges"""
    helped: dict[str, bool]
    """the same, given more lines"""


def exact(count: int, log: r.Log) -> Exact:
    """Build and solve."""
    log(f"networks with weights from the inequalities of {count} random regions")
    polygons = random_polygons(count, 3, 4)
    answers = built(jnp.asarray(polygons, jnp.float32))
    truth = [
        np.stack([inside(part(region), GRID) for region in polygons])
        for part in (lambda region: [region[0, :1]], lambda region: [region[0]], list)
    ]
    wrong = [int((np.asarray(says) != true).sum()) for says, true in zip(answers, truth, strict=True)]
    log("linear programs: what two layers of threshold neurons reach")
    reached = {name: two_layers_reach(region, np.zeros((0, 3))) for name, region in REGIONS.items()}
    return Exact(wrong, reached, {name: two_layers_reach(region, helpers()) for name, region in REGIONS.items()})


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Build, solve, train, judge and draw."""
    steps, count = settings.pick(quick=500, full=3000), 4 * settings.seeds
    solved = exact(count, log)
    targets = np.stack([inside(region, GRID) for region in REGIONS.values()])
    found = {}
    for hidden, name in enumerate(("one layer", "two layers", "three layers")):
        log(f"{name}: {settings.seeds} seeds × {len(REGIONS)} regions in one compiled call")
        found[name] = r.sweep_seeds(experiment_with(hidden, steps), settings, region=targets)
    wrong = {name: r.by_case(runs["wrong"], REGIONS) for name, runs in found.items()}
    outside = ~r.by_case(found["one layer"]["says"], REGIONS)["pentagon"].any(axis=(1, 2))
    return r.Outcome(
        LEAD.format(count=count, helpers=len(helpers()), steps=steps),
        [
            *_of_exact(solved, count),
            _of_quadrants(targets[list(REGIONS).index("two quadrants")]),
            *_of_one_layer(wrong["one layer"], outside),
            *_of_trained(wrong),
        ],
        EQUATION,
        slide=6,
        tables=[_table(solved, wrong)],
        figures=[_maps({name: runs["says"] for name, runs in found.items()}, targets)],
        numbers={
            "wrong answers of built networks": solved.wrong,
            "two layers reach": solved.reached,
            "two layers reach with more lines": solved.helped,
            "share of the square that is wrong": {name: r.intervals(of) for name, of in wrong.items()},
        },
    )


def _of_exact(solved: Exact, count: int) -> list[r.Verdict]:
    reached, helped = solved.reached, solved.helped

    lines = "with the lines of its edges"
    way = {name: lines if reached[name] else "with more lines" if helped[name] else "not at all" for name in REGIONS}
    return [
        *(
            r.exactly(claim, errors, 0, f"{errors} of {count * len(GRID):,}")
            for claim, errors in zip(INDICATORS, solved.wrong, strict=True)
        ),
        r.judged_each(ANY_REGION, {name: (helped[name], way[name]) for name in REGIONS}),
    ]


def _of_quadrants(target: np.ndarray) -> r.Verdict:
    wrong = int((smooth_quadrants() != target).sum())
    return r.exactly(QUADRANTS, wrong, 0, f"{wrong} of {len(GRID):,}")


def _of_one_layer(wrong: dict[str, np.ndarray], outside: np.ndarray) -> list[r.Verdict]:
    share, beside = (
        r.Interval.of(wrong["pentagon"]),
        f"{outside.sum()} of {len(outside)} neurons say “outside” everywhere",
    )
    polygon = r.bounded(NO_POLYGON, 0.05, np.inf, {"": share}, lambda of: f"{of}; {beside}")
    return [r.at_most(HALF_PLANE, 0.01, wrong["half plane"]), polygon]


def _of_trained(wrong: dict[str, dict[str, np.ndarray]]) -> list[r.Verdict]:
    two, three = wrong["two layers"], wrong["three layers"]
    return [
        r.at_most(POLYGON, 0.02, two["pentagon"]),
        r.at_most(SEVEN, 0.02, three),
        r.smaller(THREE_LAYERS, {name: (three[name], two[name]) for name in REGIONS if name not in CONVEX}),
    ]


def _table(solved: Exact, wrong: dict[str, dict[str, np.ndarray]]) -> r.Table:
    rows = {
        name: {
            "two layers can": "yes" if solved.reached[name] else "no",
            "with more lines": "yes" if solved.helped[name] else "no",
            **{layers: of[name] for layers, of in wrong.items()},
        }
        for name in REGIONS
    }
    caption = "Two threshold layers, exactly, and the share of the square where trained networks are wrong: means over "
    return r.table(caption + "seeds with 95 % intervals", "region", rows)
