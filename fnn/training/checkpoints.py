"""Parameters saved, loaded, and transplanted into another network (slide "Heuristics for the initial approximation").

A tree here is any pytree of arrays: the params of a network, its running statistics, a whole `TrainState` with its
keys. A leaf is named by its path, ``0.w`` or ``params.2.gamma``; where a key of a dict holds a dot, it is written
``%2E``, so no two leaves of a tree have the same name. A *part* of a tree is an index or key, ``2`` or ``"w"``, or a
tuple of them, ``(2, "w")``.

Example: the first two parts of a trained network become the start of another, and stay as they are.
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
from fnn.core._trees import Part, leaves_by_path, subtree
from fnn.core.types import Params
from fnn.nn import _checks as nn_checks
from fnn.training._files import written_whole
from fnn.training._formats import FORMATS


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a pytree of arrays to a file, whole or not at all.

    Every value is kept to the bit, bfloat16 included. Typed keys (`jax.random.key`) are kept as their words together
    with the name of their generator. Nothing is pickled. When it returns, the file is on the disk itself.

    Args:
        path: a name that ends in ``.npz``, which needs nothing but NumPy, or ``.safetensors``, which other frameworks
            read too. A file that is there is replaced at the end, in one move.
        tree: any pytree of NumPy or JAX arrays.

    Raises:
        ValueError: another suffix.
        TypeError: a leaf that is no array, is traced, or has a dtype that the format lacks.
        FileNotFoundError: no such folder.
        OSError: it cannot be written, such as on a full disk; the file that was there is still there.
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
    generators = {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if _is_key(leaf)}
    arrays = {
        name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")
        for name, leaf in leaves.items()
    }
    with written_whole(path) as draft:
        write(draft, arrays, generators)


def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Read what `save` wrote.

    Args:
        path: a ``.npz`` or ``.safetensors`` file, of `save` or of anybody.
        like: a tree of the same structure, shapes and dtypes, whose values do not matter: `jax.eval_shape` gives one
            without computing anything. Without it the result is flat.

    Returns:
        With `like`, a tree of its structure, with NumPy arrays where it has some and JAX arrays elsewhere. Without,
        a dict from names to NumPy arrays (and typed keys).

    Raises:
        ValueError: a file that does not fit `like`; the message lists every tensor that is missing, unexpected, or of
            another shape or dtype. Nothing is dropped or converted in silence. No array is read before all fit.
        ValueError: a file that is damaged or of another format, also one that holds Python objects; another suffix.
        OSError: a file that is not there, or that the system does not give.

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
    _, opened = FORMATS[_file_format("load", path, FORMATS)]
    wanted = None if like is None else _named(like)
    with open(path, "rb") as file:
        with _undamaged(path):
            held = opened(file)
            kinds = held.arrays | {
                name: jax.eval_shape(partial(jax.random.wrap_key_data, impl=generator), held.arrays[name])
                for name, generator in held.generators.items()
            }
        if wanted is not None:
            _none_of(
                f"load: {path} is not as like",
                _differences(wanted, kinds, "like", "the file") or _not_held(wanted),
                "make like by the same network (and trainer) as was saved: jax.eval_shape(net.init, key, x)[0]; to "
                "take over a part of a network, load all of it, like itself, and transplant",
            )
        with _undamaged(path):
            found: dict[str, Any] = {name: held.read(name) for name in held.arrays}
            for name, generator in held.generators.items():
                found[name] = jax.random.wrap_key_data(jnp.asarray(found[name]), impl=generator)
    if wanted is None:
        return found
    leaves = [
        found[name] if isinstance(leaf, np.ndarray) else jnp.asarray(found[name]) for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def transplant(into: Params, source: Params, parts: Mapping[Any, Part]) -> Params:
    """Parameters with some parts taken from a pre-trained model (slide "Heuristics for the initial approximation").

    The parts named take the source's weights; all others keep their own first values. The running statistics of
    batch norm are in the state, which is transplanted by a call of its own.

    Args:
        into: params, as the new network's ``init`` makes them.
        source: params of the pre-trained network, of any other depth or head.
        parts: which part of `into` comes from which part of `source`: ``{0: 0, 1: 2}``, ``{(0, "w"): (3, "w")}``. See
            also `first_parts` and `all_but_head`.

    Returns:
        Params in the structure of `into`.

    Raises:
        ValueError: parts that are not there, are named twice, or differ in names, shapes or dtypes: all of them are
            listed.

    Example:
        >>> import jax.numpy as jnp
        >>> into, source = ({"w": jnp.zeros(2)}, {"w": jnp.zeros(3)}), ({"w": jnp.ones(3)},)
        >>> transplant(into, source, {1: 0})[1]["w"].tolist()
        [1.0, 1.0, 1.0]
        >>> transplant(into, source, {0: 0})
        Traceback (most recent call last):
        ...
        ValueError: transplant, 1 difference:
          part 0 from part 0, w: float32 (2,) in into, float32 (3,) in source
        give both networks the same widths and dtypes there, or leave the part out
    """
    leaves, targets, problems = leaves_by_path(into), [], []
    for target, origin in parts.items():
        path, here = subtree("transplant: into", into, target)
        _, there = subtree("transplant: source", source, origin)
        differing = _differences(_named(here), _named(there), "into", "source")
        problems += [f"part {target} from part {origin}, {line}" for line in differing]
        leaves |= {path + below: leaf for below, leaf in leaves_by_path(there).items()}
        targets.append(path)
    _apart("transplant", targets)
    advice = "give both networks the same widths and dtypes there, or leave the part out"
    _none_of("transplant", problems, advice)
    return jax.tree.unflatten(jax.tree.structure(into), leaves.values())


def first_parts(k: int) -> dict[int, int]:
    """The first k parts, each from its namesake, for `transplant`; parts without weights count too.

    Example:
        >>> first_parts(2)
        {0: 0, 1: 1}
    """
    return {i: i for i in range(checks.count("k", k))}


def all_but_head(params: Params) -> dict[int, int]:
    """All parts of a `serial` before its head, the last part that has weights, each from its namesake.

    Raises:
        TypeError: params of anything but a composite, a tuple with one entry a part.
        ValueError: a network without weights before its head.
    """
    nn_checks.parts("all_but_head: a serial", len(params), params=params)
    weighty = [i for i, part in enumerate(params) if jax.tree.leaves(part)]
    if len(weighty) < 2:
        raise ValueError("all_but_head: there are no weights before the head; nothing could be transplanted")
    return {i: i for i in range(weighty[-1])}


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their names; % escapes what would make two paths one name, or what a file has its own use for."""

    def escaped(key: str) -> str:
        return re.sub(r"[%.\\\x00]|^_(?=_metadata__$)", lambda m: f"%{ord(m[0]):02X}", key)

    return {".".join(map(escaped, path)): leaf for path, leaf in leaves_by_path(tree).items()}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _file_format(where: str, path: Path, known: Iterable[str]) -> str:
    """The suffix of a path, which names its format."""
    if path.suffix not in known:
        raise ValueError(
            f"{where} tells the format by the suffix, {' or '.join(sorted(known))}, got {path.name!r}; rename the file"
        )
    return path.suffix


def _folder(path: Path) -> None:
    """The folder a file is to stand in, which must exist."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"save: there is no folder {path.parent}; make it by Path({str(path.parent)!r}).mkdir()"
        )


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
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


def _saveable(name: str, leaf: Any) -> None:
    """A leaf that a file can hold: an array of numbers, or of typed keys, that is known now."""
    where = f"save: the leaf {name!r}"
    if isinstance(leaf, Tracer):
        raise TypeError(f"{where} is traced; save outside of jit, vmap and grad")
    checks.is_array(where, leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return
    dtype = np.dtype(leaf.dtype)
    if not (dtype.isbuiltin == 2 or (dtype.isbuiltin == 1 and dtype.kind in "biufc")):
        raise TypeError(f"{where} has dtype {dtype}; only numbers in the machine's byte order are saved, convert it")


def _described(leaf: Any) -> str:
    """A leaf's dtype and shape."""
    return f"{leaf.dtype} {tuple(leaf.shape)}"


def _differences(wanted: Mapping[str, Any], got: Mapping[str, Any], wanted_in: str, got_in: str) -> list[str]:
    """One line for each name that is in one of the two only, or in both with another shape or dtype."""
    for name, leaf in [*wanted.items(), *got.items()]:
        checks.is_array(f"the leaf {name!r}", leaf)
    lines = []
    for name in [*wanted, *(name for name in got if name not in wanted)]:
        sides = [f"{_described(tree[name]) if name in tree else 'missing'} in {place}"
                 for tree, place in ((wanted, wanted_in), (got, got_in))]  # fmt: skip
        same = name in wanted and name in got and wanted[name].shape == got[name].shape
        if not (same and wanted[name].dtype == got[name].dtype):
            lines.append(f"{name or 'the array'}: {', '.join(sides)}")
    return lines


def _not_held(wanted: Mapping[str, Any]) -> list[str]:
    """One line for each wanted device array of a dtype that JAX would narrow in silence."""
    return [
        f"{name or 'the array'}: {_described(leaf)}, which JAX holds after jax.config.update('jax_enable_x64', True)"
        for name, leaf in wanted.items()
        if not isinstance(leaf, np.ndarray)
        and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype
    ]


def _none_of(where: str, problems: Sequence[str], advice: str) -> None:
    """All problems at once, and what to do about them."""
    if problems:
        listed = "\n  ".join(problems)
        raise ValueError(f"{where}, {len(problems)} difference{'s'[: len(problems) > 1]}:\n  {listed}\n{advice}")


def _apart(where: str, paths: Sequence[tuple[str, ...]]) -> None:
    """Parts of which none is another or lies in another."""
    for one, other in zip(sorted(paths), sorted(paths)[1:], strict=False):
        if other[: len(one)] == one:
            raise ValueError(
                f"{where}: part {'.'.join(other)} is named twice, it lies in {'.'.join(one)}; name it once"
            )
