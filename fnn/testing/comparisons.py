"""The report of `compare_gradients`, in numbers and in print."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from fnn.core._labels import aligned
from fnn.testing._blame import Culprit
from fnn.testing._judges import LEAST
from fnn.testing._programs import Compared
from fnn.testing._quotients import EXAMPLES, Quotients
from fnn.testing._trees import norm, quotient, relative_error
from fnn.testing._verdicts import Kind, Verdict


class Difference(NamedTuple):
    """Two gradients of the same parameters."""

    largest: float
    """``max |u − v|``"""
    norm: float
    """‖v‖"""
    relative: float
    """‖u − v‖/‖v‖; 0 where both are 0"""
    cosine: float
    """⟨u, v⟩/(‖u‖‖v‖); 1 where both are 0"""
    ulps: float
    """``max |u − v|`` in units in the last place of the larger of the two, entry by entry"""


class LeafComparison(NamedTuple):
    """One leaf of the parameters, or ∂Q/∂x, compared in every pair of ways."""

    path: str
    """"[0]['w']"; "x" for ∂Q/∂x"""
    shape: tuple[int, ...]
    differences: dict[str, Difference]
    """for "manual–automatic", "manual–differences", "automatic–differences" in float64, and for "manual–automatic" in
    the parameters' own dtype where that is another; those with differences over the sampled entries without a kink"""
    verdict: Verdict
    step: float
    """median step of the difference quotients; NaN without any"""
    error: float
    """median of the quotients' own estimates of their error"""
    kinks: int
    """sampled entries where the slope of Q jumps; no quotient counts there"""
    sampled: int = 0
    """entries at which quotients were taken"""
    size: float = 0.0
    """the norm of the numbers that it is the gradient by"""


class Examples(NamedTuple):
    """The two gradients of single examples, each as a batch of one."""

    errors: np.ndarray
    """‖u_n − v_n‖/‖v_n‖ [n], of all params or of ∂Q/∂x, whichever is larger, where no ‖v_n‖ counts as less than a
    thousandth of the batch's largest; empty where they are skipped"""
    skipped: str
    """the reason, where a batch of one is unsupported"""

    @property
    def worst(self) -> int:
        """The number of the example on which the two differ most."""
        return int(np.argmax(np.where(np.isnan(self.errors), np.inf, self.errors)))

    def __str__(self) -> str:
        if self.skipped:
            return f"example by example: skipped, {self.skipped}"
        return f"example by example: worst is example {self.worst}, off by {self.errors[self.worst]:.1e}"


class Returned(NamedTuple):
    """What the two return beside the tree: the value, or a leaf of the state."""

    name: str
    """"value", "state['mean']", …"""
    dtype: str
    """empty for float64"""
    relative: float
    """‖u − v‖/‖v‖"""
    agree: bool
    """whether that is no more than the tolerance, or than rounding explains"""

    def __str__(self) -> str:
        return f"{self.name} off by {self.relative:.1e}{self.dtype and f' in {self.dtype}'}"


class Precision(NamedTuple):
    """How far the two gradients are off their own float64 values, each computed in a lower precision."""

    dtype: str
    first: float
    second: float
    rounding: float = 0.0
    """of one number, relative to it"""

    def who_loses(self, names: tuple[str, str], least: float = 0.0) -> str:
        """The name of the one that loses ten times what the other does, or all; "" for none."""
        finite = np.isfinite(self.first), np.isfinite(self.second)
        for mine, other, i in ((self.first, self.second, 0), (self.second, self.first, 1)):
            if (finite[1 - i] and not finite[i]) or mine > 10 * max(other, least, 1e-300):
                return names[i]
        return ""


class GradientComparison(NamedTuple):
    """The result of `compare_gradients`: prints as a table, and `to_dict` gives plain numbers."""

    label: str
    names: tuple[str, str]
    verdict: Verdict
    """"agree to k digits", "manual wrong", …"""
    culprit: Culprit | None
    """where the fault arises, if there is one in a layer or in the loss"""
    leaves: tuple[LeafComparison, ...]
    examples: Examples | None
    precisions: tuple[Precision, ...]
    returned: tuple[Returned, ...] = ()
    """the value and the leaves of the state, in float64 and in their own dtype; empty for functions of a tree alone"""

    @property
    def pair(self) -> str:
        """The name of the first pair, "manual–automatic"."""
        return "–".join(self.names)

    @property
    def worst(self) -> float:
        """The largest relative difference of the two gradients in float64 over the leaves."""
        return self.worst_of(self.pair)

    def worst_of(self, pair: str) -> float:
        """The largest relative difference over the leaves, of a pair such as "manual–differences".

        A leaf whose gradient is less than a thousandth of the whole gradient is measured against that thousandth: a
        bias before `batch_norm` has gradient 0, and nothing but rounding to be relative to. At x the whole is what
        the gradient of the params is worth there, ‖∂Q/∂w‖ ‖w‖/‖x‖.
        """
        leaves = [(leaf.path, leaf.differences[pair], leaf.size) for leaf in self.leaves]
        return max(relative_to_whole(*zip(*leaves, strict=True)), default=0.0) if leaves else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, strings and numbers, ready for JSON."""
        return {
            "label": self.label,
            "verdict": str(self.verdict),
            "culprit": None if self.culprit is None else self.culprit._asdict(),
            "worst": self.worst,
            "leaves": {
                leaf.path: {"shape": list(leaf.shape), "verdict": str(leaf.verdict), "kinks": leaf.kinks}
                | {"step": leaf.step, "error": leaf.error}
                | {pair: difference._asdict() for pair, difference in leaf.differences.items()}
                for leaf in self.leaves
            },
            "examples": None if self.examples is None else {"errors": self.examples.errors.tolist()},
            "returned": [each._asdict() for each in self.returned],
            "precisions": [precision._asdict() for precision in self.precisions],
        }

    def __repr__(self) -> str:
        found = [f"{self.label}\nverdict: {self.verdict}{self._of_losses()}"]
        if self.culprit is not None:
            found.append(f"arises in {self.culprit}")
        if kinks := sum(leaf.kinks for leaf in self.leaves):
            found.append(f"kinks: {kinks} of the sampled entries, where quotients do not count")
        found += self._of_steps()
        if apart := [str(each) for each in self.returned if not each.agree]:
            found.append(f"returned beside the gradient: {', '.join(apart)}")
        if self.examples is not None:
            found.append(str(self.examples))
        parts = ["\n".join(found), self._of_leaves()]
        if self.precisions:
            parts.append(self._of_precisions())
        return "\n\n".join(parts)

    def _of_losses(self) -> str:
        """Points to the lower dtypes in which one of the two loses far more, and more than the rounding of a number."""
        whose = [(p.who_loses(self.names, p.rounding), p.dtype) for p in self.precisions]
        losses = [(name, ", ".join(dtype for who, dtype in whose if who == name)) for name in self.names]
        return "".join(f"; {name} loses far more in {where}, see off float64" for name, where in losses if where)

    def _of_steps(self) -> list[str]:
        """A way out where no quotient judges a leaf."""
        silent = [
            leaf.path for leaf in self.leaves if leaf.verdict.kind is Kind.UNRELIABLE or 0 < leaf.sampled == leaf.kinks
        ]
        return (
            [f"no quotient judges {', '.join(silent)}: try steps={{{silent[0]!r}: 1e-6}} or another step"]
            if silent
            else []
        )

    def _of_leaves(self) -> str:
        pairs = [pair for leaf in self.leaves[:1] for pair in leaf.differences if pair != self.pair]
        rows = []
        for leaf in self.leaves:
            exact = leaf.differences[self.pair]
            shape = "×".join(map(str, leaf.shape)) or "scalar"
            numbers = f"{exact.largest:.1e}", f"{exact.relative:.1e}", f"{exact.cosine:.12f}", f"{exact.ulps:.3g}"
            others = (f"{leaf.differences[pair].relative:.1e}" for pair in pairs)
            estimate = () if np.isnan(leaf.step) else (f"{leaf.step:.0e}", f"{leaf.error:.0e}")
            rows.append((leaf.path, shape, str(leaf.verdict), *numbers, *others, *estimate))
        header = ("parameter", "shape", "verdict", "largest |Δ|", "‖Δ‖/‖·‖", "cosine", "ulp")
        header += tuple(pair.removeprefix(f"{self.pair}, ").replace("differences", "diff.") for pair in pairs)
        quotients = any(not np.isnan(leaf.step) for leaf in self.leaves)
        return aligned((header + (("step", "diff. ±") if quotients else ()), *rows), text_columns=3)

    def _of_precisions(self) -> str:
        rows = []
        for p in self.precisions:
            whose = p.who_loses(self.names)
            rows.append((p.dtype, f"{p.first:.1e}", f"{p.second:.1e}", f"{whose} loses more" if whose else ""))
        return aligned((("off float64", *self.names, ""), *rows), text_columns=1)


def compared(
    names: tuple[str, str], exact: Sequence[np.ndarray], own: Sequence[np.ndarray], found: Quotients | None
) -> dict[str, Difference]:
    """Two flat leaves in every pair of ways: in float64, in their own dtype if that is another, and with quotients."""
    first_pair = "–".join(names)
    pairs = {first_pair: difference(*exact)}
    if own[1].dtype != np.float64:
        pairs[f"{first_pair}, {own[1].dtype}"] = difference(*own)
    if found is not None:
        smooth = ~found.kink
        sampled = {name: g[found.at[smooth]] for name, g in zip(names, exact, strict=True)}
        sampled["differences"] = found.value[smooth]
        pairs |= {f"{u}–{v}": difference(sampled[u], sampled[v]) for u, v in list(combinations(sampled, 2))[1:]}
    return pairs


def difference(u: np.ndarray, v: np.ndarray) -> Difference:
    """Two flat arrays compared."""
    with np.errstate(invalid="ignore", over="ignore"):
        spacing = np.spacing(np.maximum(np.abs(u), np.abs(v)))
        u, v, spacing = u.astype(np.float64), v.astype(np.float64), np.abs(spacing.astype(np.float64))
        norm_u, norm_v, apart = norm(u), norm(v), np.abs(u - v)
        return Difference(
            largest=float(np.max(apart, initial=0)),
            norm=float(norm_v),
            relative=relative_error(u, v),
            cosine=float(u @ v / (norm_u * norm_v)) if norm_u and norm_v else float(norm_u == norm_v),
            ulps=float(np.max(apart / spacing, initial=0)),
        )


def relative_between(of: Compared, both: list[list[np.ndarray]]) -> list[float]:
    """`relative_to_whole` of two gradients' flat leaves."""
    return relative_to_whole(of.paths, [difference(*pair) for pair in zip(*both, strict=True)], of.sizes)


def relative_to_whole(paths: Sequence[str], leaves: Sequence[Difference], sizes: Sequence[float]) -> list[float]:
    """‖u − v‖/‖v‖ of every leaf, where no ‖v‖ counts as less than a thousandth of the `whole`."""

    def of(d: Difference, all_of_it: float) -> float:
        apart = d.relative * d.norm if d.norm else d.largest
        return quotient(apart, max(d.norm, LEAST * all_of_it))

    return list(map(of, leaves, whole(paths, [d.norm for d in leaves], sizes)))


def whole(paths: Sequence[str], norms: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """What a leaf of a gradient is small against: all leaves of params together, and at x what is worth as much there.

    ‖g_w‖ ‖w‖/‖x‖ is in units of ∂Q/∂x, whatever those of w and x: for a linear layer Σ w ∂Q/∂w = Σ x ∂Q/∂x.

    Args:
        paths: of the leaves.
        norms: of the gradient's leaves.
        sizes: of what it is the gradient by, the norms of params and x.

    Returns:
        A number a leaf.
    """
    params = [i for i, path in enumerate(paths) if path != EXAMPLES]
    of_params = norm([norms[i] for i in params])
    worth = norm([norms[i] * sizes[i] for i in params])
    return [
        worth / size if path == EXAMPLES and worth * size else of_params
        for path, size in zip(paths, sizes, strict=True)
    ]
