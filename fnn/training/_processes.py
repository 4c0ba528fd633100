"""What processes tell each other: whether they have the same, their rows and pieces of a sweep, the end of a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core._trees import is_key
from fnn.core.types import Array
from fnn.training._claims import Claim, hash_of, identity_of_tree
from fnn.training._signals import Ending


def same_everywhere(what: str, tree: Any) -> None:
    """Raise ValueError, in every process, unless a pytree is the same in all processes.

    One hash is exchanged; only if it differs, those of all leaves are, to name the first that does.
    """
    if jax.process_count() == 1:
        return
    names = identity_of_tree(tree)
    hashes = np.stack([hash_of(f"{name} {identity}".encode()) for name, identity in names.items()] or [hash_of(b"")])
    whole = _of_all(hash_of(hashes.tobytes()))
    if (whole == whole[:1]).all():
        return
    others = sorted({rank for rank in range(len(whole)) if not (whole[rank] == whole[0]).all()})
    structures = _of_all(hash_of(" ".join(names).encode()))
    which = "its structure"
    if (structures == structures[:1]).all():
        each = _of_all(hashes)
        which = list(names)[int(np.argmax((each != each[:1]).any(axis=(0, 2))))] or "the array"
    raise ValueError(
        f"{what}: expected the same in all {len(whole)} processes, got others in {_listed(others)} than in process 0 "
        f"({which} differs). Make it from the same seed and the same data in every process."
    )


def _of_all(plain: np.ndarray) -> np.ndarray:
    """The array of each process, [processes, …]."""
    from jax.experimental.multihost_utils import process_allgather  # here, for few need it

    return np.asarray(process_allgather(plain))


def gathered_rows(results: Any, numbers: dict[int, np.ndarray], count: int) -> Any:
    """All rows of results, each leaf [count, …], of which process p has those with numbers[p]."""
    most = max(len(rows) for rows in numbers.values())
    order = np.argsort(np.concatenate(list(numbers.values())), kind="stable")[:count]

    def at_leaf(leaf: Array) -> Array:
        is_keys = is_key(leaf)
        plain = np.asarray(jax.random.key_data(leaf) if is_keys else leaf)
        if plain.size:
            raw = np.ascontiguousarray(plain).reshape(len(plain), -1).view(np.uint8)
            filled = np.concatenate([raw, np.zeros((most - len(raw), raw.shape[1]), np.uint8)])
            parts = [rows[: len(numbers[rank])] for rank, rows in zip(numbers, _of_all(filled), strict=True)]
            raw = np.ascontiguousarray(np.concatenate(parts)[order])
            plain = raw.view(plain.dtype).reshape(count, *plain.shape[1:])
        else:
            plain = np.zeros((count, *plain.shape[1:]), plain.dtype)
        array = jnp.asarray(plain)
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_keys else array

    return jax.tree.map(at_leaf, results)


def take_together(claim: Claim) -> None:
    """Take a folder in all processes: the first claims it, the others check that they see the claim.

    Raises:
        ValueError, OSError: in every process, what is wrong in one of them.
    """
    if jax.process_count() == 1:
        return claim.take()
    same_everywhere(f"resumable_{claim.kind}", np.frombuffer(claim.note, np.uint8))
    _together(lambda: claim.take() if jax.process_index() == 0 else None)
    return _together(lambda: _seen(claim))


def _seen(claim: Claim) -> None:
    """Raise ValueError unless the folder has the note that the first process has written."""
    note = claim.folder / f"{claim.kind}.json"
    if not note.exists():
        raise ValueError(f"expected {note}, which process 0 sees, got none. Use a folder that all processes see.")
    claim.take()


def _together(action: Callable[[], None]) -> None:
    """Do something in every process, and raise in all what is raised in one."""
    error = None
    try:
        action()
    except (ValueError, OSError) as caught:
        error = caught
    text = np.frombuffer(str(error or "").encode()[:_LONGEST].ljust(_LONGEST, b"\0"), np.uint8)
    said = {rank: row.tobytes().rstrip(b"\0").decode(errors="replace") for rank, row in enumerate(_of_all(text))}
    if error is not None:
        raise error
    for rank, message in said.items():
        if message:
            raise ValueError(f"process {rank}: {message}")


_LONGEST = 2000
"""bytes of a message"""


def own_share(claim: Claim, count: int) -> list[int]:
    """The numbers, of 0 … count, of the files that this process makes: those missing to the first, in turn."""
    if jax.process_count() == 1:
        return list(range(count))
    is_there = np.isin(np.arange(count), claim.numbers()) if jax.process_index() == 0 else np.zeros(count, bool)
    missing = np.flatnonzero(~_of_all(is_there)[0])
    return missing[jax.process_index() :: jax.process_count()].tolist()


def wait_for(claim: Claim, count: int, seconds: float = 0.2) -> None:
    """Wait until all files are there: a collective would give up after half an hour.

    If a process ends before, the heartbeat of `jax.distributed` ends this one too.
    """
    while jax.process_count() > 1 and len(claim.numbers()) < count:
        time.sleep(seconds)


def agreed_end(ending: Ending) -> str:
    """The reason for which a run ends here, in every process that of any; empty if it goes on.

    JAX agrees on the end after a SIGTERM by the numbers of the looks, which must be consecutive in every process.
    """
    if jax.process_count() == 1:
        return ending.stopped
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    is_preempted = reached_preemption_sync_point(next(_LOOKS))
    is_interrupted = any(number == signal.SIGINT for number, _ in ending.pending)
    reasons = ("", "on_chunk", "interrupted", "preempted")
    own = max(reasons.index(ending.stopped), 2 * is_interrupted, 3 * is_preempted)
    return reasons[int(_of_all(np.array(own)).max())]


_LOOKS = count()


def _listed(ranks: Sequence[int]) -> str:
    return f"process {ranks[0]}" if len(ranks) == 1 else f"processes {', '.join(map(str, ranks))}"
