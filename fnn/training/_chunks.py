"""Where a `resumable_fit` keeps its chunks: a file each, or with several processes a checkpoint of all, by orbax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from fnn.core._trees import is_key
from fnn.training._claims import Claim


class Chunks(NamedTuple):
    """The last chunks of a run; whoever goes on, one process or several, finds those of the other kind too."""

    claim: Claim
    keep: int
    manager: Any
    """orbax's `CheckpointManager`, or None if one process has made all chunks"""

    def last(self, like: Callable[[int], Any]) -> Any:
        """The last chunk that can be read, None if there is none; `like` gives structure, shapes, and shardings."""
        checkpoints = [] if self.manager is None else self.manager.all_steps()
        for number in sorted({*self.claim.numbers(), *checkpoints}, reverse=True):
            if number in checkpoints:
                return self._restored(number, like(number))
            found = self.claim.read(number, like(number), "is passed over")
            if found is not None:
                return found
        return None

    def store(self, number: int, results: Any) -> None:
        """Keep a chunk, and no more of those before it than `keep` allows."""
        if jax.process_count() > 1:
            return self.checkpoint(number, results)
        self.claim.store(number, results)
        for old in self.claim.numbers():
            if not number - self.keep < old <= number:
                self.claim.path(old).unlink(missing_ok=True)
        return None

    def checkpoint(self, number: int, results: Any) -> None:
        """Keep a chunk by orbax, which writes while training goes on."""
        from orbax.checkpoint.args import StandardSave

        named = _named(results, lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf)
        self.manager.save(number, args=StandardSave({"mark": self.claim.mark, **named}), force=True)

    def _restored(self, number: int, like: Any) -> Any:
        """A checkpoint, compared with what it should be before orbax casts it in silence."""
        from orbax.checkpoint.args import StandardRestore

        where = f"resumable_fit: expected chunk {number} in {self.manager.directory}"
        wanted = {"mark": self.claim.mark, **_named(like, _as_stored)}
        try:
            there = self.manager.item_metadata(number).tree
            self._is_as_wanted(where, wanted, there)
            stored = self.manager.restore(number, args=StandardRestore(wanted))
        except _Another:
            raise
        except Exception as error:  # of orbax, or of what reads for it, and of any kind
            raise ValueError(
                f"{where} to be whole, got a damaged one ({str(error).splitlines()[0]}). Remove it, and the fit goes "
                "on from the one before it."
            ) from error
        if not np.array_equal(stored["mark"], self.claim.mark):
            raise _Another(f"{where} of this fit, got one of another fit. Use another folder.")
        return jax.tree.map(
            lambda leaf, name: _as_key(stored[name], leaf) if is_key(leaf) else stored[name],
            like,
            jax.tree.unflatten(jax.tree.structure(like), list(_named(like, lambda leaf: None))),
        )

    @staticmethod
    def _is_as_wanted(where: str, wanted: dict[str, Any], there: Any) -> None:
        """Raise `_Another` unless the arrays have the wanted names, dtypes and shapes."""
        shapes, found = ({name: _kind(leaf) for name, leaf in of.items()} for of in (wanted, there))
        for name in {**shapes, **found}:
            if shapes.get(name) != found.get(name):
                raise _Another(
                    f"{where} with {name} {shapes.get(name, 'absent')}, got {found.get(name, 'none')}. Use another "
                    "folder."
                )


class _Another(ValueError):
    """A checkpoint of another run."""


@contextmanager
def chunks(claim: Claim, keep: int) -> Iterator[Chunks]:
    """The chunks of a run; at the end of the block all are written."""
    folder = claim.folder.resolve() / "chunks"
    if jax.process_count() == 1 and not folder.exists():
        yield Chunks(claim, keep, None)
        return
    manager = _manager(folder, keep)
    try:
        yield Chunks(claim, keep, manager)
    finally:
        manager.close()


def _manager(folder: Any, keep: int) -> Any:
    """orbax's manager of a folder; raises ImportError if orbax is missing."""
    try:
        from orbax.checkpoint import CheckpointManager, CheckpointManagerOptions, StandardCheckpointHandler
    except ImportError as error:
        raise ImportError(
            "resumable_fit: expected orbax, which keeps the checkpoints of several processes, got none. Install it: "
            "pip install 'fnn[checkpoints]'."
        ) from error

    class Manager(CheckpointManager):
        """`fit` asks JAX whether SIGTERM has come, by consecutive numbers, which are not those of the chunks."""

        def reached_preemption(self, step: int) -> bool:
            return False

    options = CheckpointManagerOptions(max_to_keep=keep, step_prefix="chunk", create=True)
    return Manager(folder, options=options, item_handlers=StandardCheckpointHandler())


def _named(tree: Any, at_leaf: Callable[[Any], Any]) -> dict[str, Any]:
    """A flat pytree, its leaves by a number and their paths: what orbax keeps, and lists, without any structure."""
    leaves = jax.tree.leaves_with_path(tree)
    return {f"{n:04d} {keystr(path, simple=True, separator='.')}": at_leaf(x) for n, (path, x) in enumerate(leaves)}


def _as_stored(leaf: Any) -> Any:
    """What orbax is to restore for a leaf: an array on its devices in several processes, one of NumPy otherwise."""
    plain = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or jax.process_count() == 1:
        return np.empty(plain.shape, plain.dtype)
    return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=sharding)


def _as_key(words: Any, like: Any) -> Any:
    """Words as keys, of the generator of a key of which only the shape is given."""
    generators: list[Any] = []
    jax.eval_shape(lambda key: generators.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(jnp.asarray(words), impl=generators[0])


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype)} {list(leaf.shape)}"
