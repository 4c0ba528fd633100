"""Parameters that are saved, loaded, transplanted and pre-trained."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import keystr

from fnn.checks.arrays import is_array
from fnn.checks.numbers import number
from fnn.types import Loss


def file_format(where: str, path: Path, known: Iterable[str]) -> str:
    """The suffix of a path, which names its format."""
    if path.suffix not in known:
        raise ValueError(
            f"{where} tells the format by the suffix, {' or '.join(sorted(known))}, got {path.name!r}; rename the file"
        )
    return path.suffix


def folder(path: Path) -> None:
    """The folder a file is to stand in, which must exist."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"save: there is no folder {path.parent}; make it by Path({str(path.parent)!r}).mkdir()"
        )


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """A file that can be read as what its suffix says; whatever is raised otherwise becomes one error that names it."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that one comes of a place before the beginning
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0]  # more lines are advice, and not ours
        raise ValueError(
            f"load: {path} is damaged or no {path.suffix} file of arrays ({why}); take another copy of it, or save anew"
        ) from None


def distinct(names: Sequence[Any]) -> None:
    """Leaves that can be told apart by their paths; only a node type of the user's can break this."""
    if len(set(names)) < len(names):
        twice = sorted({".".join(name) for name in names if names.count(name) > 1})
        raise ValueError(f"two leaves have the same path {', '.join(twice)}; give the node's children distinct keys")


def saveable(name: str, leaf: Any) -> None:
    """A leaf that a file can hold: an array of numbers, or of typed keys, that is known now."""
    where = f"save: the leaf {name!r}"
    if isinstance(leaf, Tracer):
        raise TypeError(f"{where} is traced; save outside of jit, vmap and grad")
    is_array(where, leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return
    dtype = np.dtype(leaf.dtype)
    if not (dtype.isbuiltin == 2 or (dtype.isbuiltin == 1 and dtype.kind in "biufc")):
        raise TypeError(f"{where} has dtype {dtype}; only numbers in the machine's byte order are saved, convert it")


def described(leaf: Any) -> str:
    """A leaf's dtype and shape."""
    return f"{leaf.dtype} {tuple(leaf.shape)}"


def differences(wanted: Mapping[str, Any], got: Mapping[str, Any], wanted_in: str, got_in: str) -> list[str]:
    """One line for each name that is in one of the two only, or in both with another shape or dtype."""
    for name, leaf in [*wanted.items(), *got.items()]:
        is_array(f"the leaf {name!r}", leaf)
    lines = []
    for name in [*wanted, *(name for name in got if name not in wanted)]:
        sides = [f"{described(tree[name]) if name in tree else 'missing'} in {place}"
                 for tree, place in ((wanted, wanted_in), (got, got_in))]  # fmt: skip
        same = name in wanted and name in got and wanted[name].shape == got[name].shape
        if not (same and wanted[name].dtype == got[name].dtype):
            lines.append(f"{name or 'the array'}: {', '.join(sides)}")
    return lines


def not_held(wanted: Mapping[str, Any]) -> list[str]:
    """One line for each wanted device array of a dtype that JAX would narrow in silence."""
    return [
        f"{name or 'the array'}: {described(leaf)}, which JAX holds after jax.config.update('jax_enable_x64', True)"
        for name, leaf in wanted.items()
        if not isinstance(leaf, np.ndarray)
        and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype
    ]


def none_of(where: str, problems: Sequence[str], advice: str) -> None:
    """All problems at once, and what to do about them."""
    if problems:
        listed = "\n  ".join(problems)
        raise ValueError(f"{where}, {len(problems)} difference{'s'[: len(problems) > 1]}:\n  {listed}\n{advice}")


def part(where: str, tree: Any, part: Any) -> tuple[tuple[str, ...], Any]:
    """The path of a part, an index or key or a tuple of them, as strings, and the subtree there."""
    path = []
    for key in part if isinstance(part, tuple) else (part,):
        inside = {keystr(p, simple=True): child for p, child in _children(tree)}
        if isinstance(key, int) and key < 0 and isinstance(tree, tuple | list):
            key += len(tree)
        if str(key) not in inside:
            at = f"in {'.'.join(path)} " if path else ""
            has = f"its parts are {', '.join(inside)}" if inside else "there is no part at all"
            raise ValueError(f"{where} has no part {part!r}: no {key!r} {at}({has}); name a part it has")
        path.append(str(key))
        tree = inside[str(key)]
    return tuple(path), tree


def _children(tree: Any) -> list[tuple[Any, Any]]:
    return [(p, child) for p, child in jax.tree.leaves_with_path(tree, is_leaf=lambda node: node is not tree) if p]


def apart(where: str, paths: Sequence[tuple[str, ...]]) -> None:
    """Parts of which none is another or lies in another."""
    for one, other in zip(sorted(paths), sorted(paths)[1:], strict=False):
        if other[: len(one)] == one:
            raise ValueError(
                f"{where}: part {'.'.join(other)} is named twice, it lies in {'.'.join(one)}; name it once"
            )


def share(name: str, value: Any) -> float:
    """A share in (0, 1], which fixes shapes; None is all."""
    if value is None:
        return 1.0
    if isinstance(value, Tracer):
        raise TypeError(f"{name} fixes how many there are and cannot be traced; pass a Python number")
    number(name, value, lambda v: 0 < v <= 1, "a share in (0, 1], or None for all")
    return float(value)


def batch_within(batch_size: int, objects: int, size: int) -> None:
    """A batch comes from the objects that a neuron sees."""
    if batch_size > objects:
        raise ValueError(
            f"batch_size {batch_size} exceeds the {objects} of {size} objects that each neuron sees; take batch_size "
            f"<= {objects}, or a larger subsample"
        )


def judges_outputs_apart(loss: Loss, known: Loss) -> None:
    """A loss that says something of one output alone, or the `known` one whose classes can be told apart."""
    if loss.hessian is not None and loss != known:
        raise ValueError(
            f"pretrain lets each neuron learn one output alone, and {loss} couples the outputs (it has a hessian); "
            f"take {known}, or a loss that is a sum over outputs"
        )


def has_neurons(where: str, net: Any, layers: Sequence[int]) -> None:
    """A network with layers of neurons to train."""
    if not layers:
        raise ValueError(
            f'{where} trains layers with params {{"w": [i, o], "b": [o]}} (dense, linear), and {net} has none that '
            "stands in a serial; build the network of them"
        )


def passed_over(where: str, composites: Sequence[Any]) -> None:
    """Neurons that are left as they are, told by the layers they stand in."""
    if composites:
        warnings.warn(
            f"{where} trains layers of neurons that stand alone or in a serial, and leaves those within "
            f"{', '.join(map(str, composites))} with their first values; put these neurons into a serial to have them "
            "trained too",
            stacklevel=3,
        )


def several(where: str, what: str, array: Any, least_rows: int) -> None:
    """A matrix of floats with two columns or more to compare."""
    is_array(where, array)
    if len(array.shape) != 2 or array.shape[0] < least_rows or array.shape[1] < 2:
        raise ValueError(
            f"{where} compares the columns of {what} with {least_rows} rows and 2 columns or more, got "
            f"shape {tuple(array.shape)}"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{where} expects floats, got {array.dtype}; convert by x.astype(jnp.float32)")


def same_sweep(folder: Any, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A folder that an earlier call of the same sweep has made."""
    if differing := _unlike(found, wanted):
        raise ValueError(
            f"{folder} holds another sweep: {'; '.join(differing)}; take another folder, or empty this one"
        )


def _unlike(found: Mapping[str, Any], wanted: Mapping[str, Any], place: str = "") -> list[str]:
    """What differs, in words; of hashes nothing can be said but that they do."""
    lines = []
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        old, new, whole = found.get(name), wanted.get(name), f"{place} {name}".strip()
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _unlike(old, new, whole)
        elif name == "hash":
            lines += [] if lines else [f"another {place}" if place == "experiment" else f"other {place}"]
        else:
            lines.append(f"{whole}: {'none' if old is None else old} there, {'none' if new is None else new} here")
    return lines


def nothing_there(folder: Path, strange: Sequence[Path]) -> None:
    """A folder without files of others."""
    if strange:
        raise ValueError(
            f"{folder} is not empty and holds no sweep; take another folder, or empty this one; there is "
            f"{', '.join(sorted(path.name for path in strange)[:3])}"
        )


def provable(folder: Path, why: str) -> None:
    """A sweep without a note of what it is can be no other than this one; else `why` not."""
    if why:
        raise ValueError(
            f"{folder}/sweep.json is not there or damaged, and {why}; take another folder, or empty this one"
        )


def is_piece(found: Mapping[str, Any], number: int, mark: np.ndarray) -> None:
    """A piece of this sweep, in its place."""
    if not np.array_equal(found["sweep"], mark):
        raise ValueError("it is of another sweep")
    if int(found["number"]) != number:
        raise ValueError(f"it is piece {int(found['number'])}")
