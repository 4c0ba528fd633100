"""Parameters saved, loaded, and transplanted into another network (slide "Heuristics for the initial approximation").

A tree here is any pytree of arrays: the params of a network, its running statistics, a whole `TrainState` with its
keys. A leaf is named by its path, ``0.w`` or ``params.2.gamma``; a dot in a dict key is written ``%2E``, so no two
leaves of a tree have the same name. A *part* of a tree is an index or key, ``2`` or ``"w"``, or a tuple of them,
``(2, "w")``.

Example: the first two parts of a trained network initialise another network, and are frozen there.
    >>> import jax, jax.numpy as jnp
    >>> from fnn import adam, dense, linear, serial, tanh
    >>> from fnn.optimizers import freeze, mask_of_parts
    >>> x = jnp.ones((1, 5))
    >>> trained, _ = serial(dense(8, tanh), dense(8, tanh), linear(10)).init(jax.random.key(0), x)
    >>> params, _ = serial(dense(8, tanh), dense(8, tanh), dense(8, tanh), linear(3)).init(jax.random.key(1), x)
    >>> parts = all_but_head(trained)
    >>> parts
    {0: 0, 1: 1}
    >>> params = transplant(params, trained, parts)
    >>> optimizer = freeze(adam(0.01), mask_of_parts(params, parts))
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> [bool(jnp.any(update["w"] != 0)) for update in updates]
    [False, False, True, True]
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fnn.core import _checks as checks
from fnn.core._trees import Part, is_key, leaves_by_path, subtree
from fnn.core.types import Params
from fnn.nn import _checks as nn_checks
from fnn.training._files import written_whole
from fnn.training._formats import FORMATS


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a pytree of arrays to a file, completely or not at all.

    Every value is stored to the bit, bfloat16 included. Typed keys (`jax.random.key`) are stored as their words with
    the name of their generator. Nothing is pickled. On return the file is on disk, safe from a power failure.

    Args:
        path: a name that ends in ``.npz``, which needs only NumPy, or ``.safetensors``, which other frameworks read
            too. An existing file is replaced at the end, in one move.
        tree: any pytree of NumPy or JAX arrays.

    Raises:
        ValueError: another suffix.
        TypeError: a leaf that is not an array, is traced, or has a dtype that the format lacks.
        FileNotFoundError: the folder does not exist.
        OSError: the file cannot be written, such as on a full disk; an existing file is unchanged.
        ImportError: ``.safetensors`` without the library.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/net.npz", ({"w": jnp.ones((3, 2), jnp.bfloat16)}, {"gamma": jnp.ones(2)}))
        ...     {name: (array.shape, str(array.dtype)) for name, array in load(f"{folder}/net.npz").items()}
        {'0.w': ((3, 2), 'bfloat16'), '1.gamma': ((2,), 'float32')}
    """
    path = Path(path)
    write, _ = FORMATS[_file_format("save", path, FORMATS)]
    _folder(path)
    leaves = _named(tree)
    for name, leaf in leaves.items():
        _saveable(name, leaf)
    generators = {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if is_key(leaf)}
    arrays = {
        name: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf, order="C")
        for name, leaf in leaves.items()
    }
    with written_whole(path) as draft:
        write(draft, arrays, generators)


def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Read a file written by `save`.

    Args:
        path: a ``.npz`` or ``.safetensors`` file, written by `save` or any other program.
        like: a tree of the same structure, shapes and dtypes, whose values do not matter: `jax.eval_shape` makes one
            without computing anything. Without it the result is flat.

    Returns:
        With `like`, a tree of its structure, with NumPy arrays in the places of its NumPy arrays and JAX arrays
        elsewhere. Without it, a dict from names to NumPy arrays (and typed keys).

    Raises:
        ValueError: a file that does not match `like`; the message lists every tensor that is missing, unexpected, or of
            another shape or dtype. Nothing is dropped or converted silently, and no array is read before all match.
        ValueError: a file that is damaged or of another format, or contains Python objects; another suffix.
        OSError: a file that does not exist or cannot be read.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> from fnn import adam, dense, linear, train, serial, squared, tanh, trainer
        >>> data = jnp.ones((8, 3)), jnp.ones((8, 1))
        >>> learn = trainer(serial(dense(4, tanh), linear(1)), squared, adam(0.01), batch_size=4)
        >>> state, _ = train(learn, learn.init(jax.random.key(0), data), data, 10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/checkpoint.npz", state)
        ...     state = load(f"{folder}/checkpoint.npz", like=jax.eval_shape(learn.init, jax.random.key(0), data))
        >>> int(state.step)
        10
    """
    path = Path(path)
    _, open_format = FORMATS[_file_format("load", path, FORMATS)]
    wanted = None if like is None else _named(like)
    with open(path, "rb") as file:
        with _undamaged(path):
            contents = open_format(file)
            kinds = contents.arrays | {
                name: jax.eval_shape(partial(jax.random.wrap_key_data, impl=generator), contents.arrays[name])
                for name, generator in contents.generators.items()
            }
        if wanted is not None:
            _no_differences(
                f"load: expected the tensors of like in {path}",
                _differences(wanted, kinds, "like", "the file") or _narrowed(wanted),
                "Make like with the network (and trainer) that was saved: jax.eval_shape(net.init, key, x)[0]. To "
                "reuse a part of a network, load all of it with its own like, then transplant.",
            )
        with _undamaged(path):
            found: dict[str, Any] = {name: contents.read(name) for name in contents.arrays}
            for name, generator in contents.generators.items():
                found[name] = jax.random.wrap_key_data(jnp.asarray(found[name]), impl=generator)
    if wanted is None:
        return found
    leaves = [
        found[name] if isinstance(leaf, np.ndarray) else jnp.asarray(found[name]) for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def transplant(into: Params, source: Params, parts: Mapping[Any, Part]) -> Params:
    """Parameters with some parts taken from a pre-trained model (slide "Heuristics for the initial approximation").

    The listed parts get the source's weights; all others keep their initial values. The running statistics of batch
    norm are in the state, which a separate call transplants.

    Args:
        into: params from the new network's ``init``.
        source: params of the pre-trained network, of any other depth or head.
        parts: maps parts of `into` to the parts of `source` they are taken from: ``{0: 0, 1: 2}``,
            ``{(0, "w"): (3, "w")}``. See also `first_parts` and `all_but_head`.

    Returns:
        Params in the structure of `into`.

    Raises:
        ValueError: parts that do not exist, are given twice, or differ in names, shapes or dtypes; all differences are
            listed.

    Example:
        >>> import jax.numpy as jnp
        >>> into, source = ({"w": jnp.zeros(2)}, {"w": jnp.zeros(3)}), ({"w": jnp.ones(3)},)
        >>> transplant(into, source, {1: 0})[1]["w"].tolist()
        [1.0, 1.0, 1.0]
        >>> transplant(into, source, {0: 0})
        Traceback (most recent call last):
        ...
        ValueError: transplant: expected equal parts, got 1 difference:
          part 0 from part 0, w: float32 (2,) in into, float32 (3,) in source
        Give both networks the same widths and dtypes there, or leave the part out.
    """
    leaves = leaves_by_path(into)
    targets = []
    problems = []
    for target, origin in parts.items():
        path, here = subtree("transplant: into", into, target)
        _, there = subtree("transplant: source", source, origin)
        differing = _differences(_named(here), _named(there), "into", "source")
        problems += [f"part {target} from part {origin}, {line}" for line in differing]
        leaves |= {path + below: leaf for below, leaf in leaves_by_path(there).items()}
        targets.append(path)
    _disjoint("transplant", targets)
    advice = "Give both networks the same widths and dtypes there, or leave the part out."
    _no_differences("transplant: expected equal parts", problems, advice)
    return jax.tree.unflatten(jax.tree.structure(into), leaves.values())


def first_parts(k: int) -> dict[int, int]:
    """The first k parts, each mapped to the same part, for `transplant`; parts without weights count too.

    Example:
        >>> first_parts(2)
        {0: 0, 1: 1}
    """
    return {i: i for i in range(checks.count("k", k))}


def all_but_head(params: Params) -> dict[int, int]:
    """All parts of a `serial` before its head, each mapped to the same part; the head is the last part with weights.

    Raises:
        TypeError: params that are not those of a composite, a tuple with one entry per part.
        ValueError: a network without weights before its head.
    """
    nn_checks.parts("all_but_head", len(params), params=params)
    with_weights = [i for i, part in enumerate(params) if jax.tree.leaves(part)]
    if len(with_weights) < 2:
        raise ValueError(
            f"all_but_head: expected weights before the head, got {len(with_weights)} part(s) with weights in all. "
            "Transplant from a network with a hidden layer."
        )
    return {i: i for i in range(with_weights[-1])}


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their names; % escapes characters that would make names ambiguous or that a file reserves."""

    def escaped(key: str) -> str:
        return re.sub(r"[%.\\\x00]|^_(?=_metadata__$)", lambda m: f"%{ord(m[0]):02X}", key)

    return {".".join(map(escaped, path)): leaf for path, leaf in leaves_by_path(tree).items()}


def _file_format(where: str, path: Path, known: Iterable[str]) -> str:
    """The suffix of a path, which determines the format."""
    if path.suffix not in known:
        raise ValueError(
            f"{where}: expected a format by the suffix, {' or '.join(sorted(known))}, got {path.name!r}. Rename the "
            "file."
        )
    return path.suffix


def _folder(path: Path) -> None:
    """Raise FileNotFoundError unless the folder of a file exists."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"save: expected an existing folder, got {path.parent}. Make it by Path({str(path.parent)!r}).mkdir()."
        )


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """A block whose errors become a ValueError that names the file, except OSError and MemoryError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek before the start of the file
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0]  # further lines are NumPy's advice
        raise ValueError(
            f"load: expected a {path.suffix} file of arrays, got {path}, which is damaged or of another format "
            f"({why}). Use another copy of it, or save anew."
        ) from None


def _saveable(name: str, leaf: Any) -> None:
    """Raise TypeError unless a leaf can be stored: a concrete array of numbers or of typed keys."""
    where = f"save: the leaf {name!r}"
    if isinstance(leaf, Tracer):
        raise TypeError(
            f"save: expected concrete arrays, got a traced leaf {name!r}. Save outside of jit, vmap and grad."
        )
    checks.is_array(where, leaf)
    if is_key(leaf):
        return
    dtype = np.dtype(leaf.dtype)
    if not (dtype.isbuiltin == 2 or (dtype.isbuiltin == 1 and dtype.kind in "biufc")):
        raise TypeError(f"{where}: expected numbers in the machine's byte order, got {dtype}. Convert them by astype.")


def _described(leaf: Any) -> str:
    """A leaf's dtype and shape."""
    return f"{leaf.dtype} {tuple(leaf.shape)}"


def _differences(wanted: Mapping[str, Any], got: Mapping[str, Any], wanted_in: str, got_in: str) -> list[str]:
    """One line for each name that only one of the two has, or that differs in shape or dtype."""
    for name, leaf in [*wanted.items(), *got.items()]:
        checks.is_array(f"the leaf {name!r}", leaf)
    lines = []
    for name in [*wanted, *(name for name in got if name not in wanted)]:
        sides = [
            f"{_described(tree[name]) if name in tree else 'missing'} in {place}"
            for tree, place in ((wanted, wanted_in), (got, got_in))
        ]
        same = name in wanted and name in got and wanted[name].shape == got[name].shape
        if not (same and wanted[name].dtype == got[name].dtype):
            lines.append(f"{name or 'the array'}: {', '.join(sides)}")
    return lines


def _narrowed(wanted: Mapping[str, Any]) -> list[str]:
    """One line for each wanted JAX array whose dtype JAX would narrow silently."""
    return [
        f"{name or 'the array'}: {_described(leaf)}, which needs jax.config.update('jax_enable_x64', True) in JAX"
        for name, leaf in wanted.items()
        if not isinstance(leaf, np.ndarray)
        and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype
    ]


def _no_differences(expected: str, differences: Sequence[str], advice: str) -> None:
    """Raise one ValueError that lists all differences, if there are any."""
    if differences:
        count = "1 difference" if len(differences) == 1 else f"{len(differences)} differences"
        listed = "\n  ".join(differences)
        raise ValueError(f"{expected}, got {count}:\n  {listed}\n{advice}")


def _disjoint(where: str, paths: Sequence[tuple[str, ...]]) -> None:
    """Raise ValueError if a part is, or lies in, another one."""
    for one, other in zip(sorted(paths), sorted(paths)[1:], strict=False):
        if other[: len(one)] == one:
            raise ValueError(
                f"{where}: expected disjoint parts, got part {'.'.join(other)} twice, as it lies in {'.'.join(one)}. "
                "Name it once."
            )
