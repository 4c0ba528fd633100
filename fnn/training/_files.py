"""Atomic, durable file writes: complete or not at all, whatever interrupts them, and on disk when they return."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DRAFT = re.compile(r"\.fnn-[0-9a-f]{16}\.draft")

_STALE = 24 * 3600.0  # seconds


@contextmanager
def written_whole(path: Path, durable: bool = True) -> Iterator[Path]:
    """A draft next to a file, which replaces the file when the block ends without an error.

    Every draft has a unique name, so several writers may write the same file at a time: the last one wins. Until then,
    and after an error, the old file is unchanged. The new file has the old one's permissions; if the path is a symbolic
    link, its target is replaced.

    Args:
        path: the file.
        durable: whether to wait until the file is on disk, safe from a power failure.

    Raises:
        OSError: the file cannot be written; no draft is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "note.txt"
        ...     with written_whole(path) as draft:
        ...         _ = draft.write_text("all of it", encoding="utf-8")
        ...         path.exists()
        ...     path.read_text(encoding="utf-8")
        False
        'all of it'
    """
    path = Path(os.path.realpath(path))
    with _draft(path, durable) as draft:
        yield draft
        with suppress(FileNotFoundError):
            shutil.copymode(path, draft)
        _keep(draft, durable)
        os.replace(draft, path)


def write(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file completely or not at all; see `written_whole`."""
    with written_whole(path, durable) as draft:
        draft.write_bytes(content)


def create(path: Path, content: bytes) -> bool:
    """Create a file completely, unless it exists.

    Returns:
        Whether this call, of any number at the same time, created the file.

    Raises:
        OSError: the file cannot be written; no draft is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     create(Path(folder) / "a", b"first"), create(Path(folder) / "a", b"second")
        (True, False)
    """
    with _draft(path, True) as draft:
        draft.write_bytes(content)
        _keep(draft, True)
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: of two simultaneous writers the last one wins
            if path.exists():
                return False
            os.replace(draft, path)
        return True


def try_to_write(folder: Path) -> None:
    """Write some kilobytes into a folder and remove them.

    Raises:
        OSError: the folder cannot be written: it is read-only, or the disk is full.
    """
    with _draft(folder / "any", False) as draft:
        draft.write_bytes(bytes(1 << 16))
        _keep(draft, True)


def remove_stale(folder: Path) -> None:
    """Remove drafts left in a folder by killed processes: those unchanged for a day."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            with suppress(OSError):
                if _DRAFT.fullmatch(entry.name) and is_stale(Path(entry.path)):
                    os.unlink(entry.path)


def is_stale(path: Path) -> bool:
    """Whether a file exists and has been abandoned: it has not changed for a day."""
    try:
        return time.time() - path.stat().st_mtime > _STALE
    except FileNotFoundError:
        return False


@contextmanager
def _draft(path: Path, durable: bool) -> Iterator[Path]:
    """The path of a draft, removed when the block ends; changes of file names in the block are then synced."""
    draft = path.with_name(f".fnn-{secrets.token_hex(8)}.draft")
    try:
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    with suppress(OSError):  # not every system can sync a folder; the file is in place in any case
        _keep(path.parent, durable)


def _keep(path: Path, durable: bool) -> None:
    """Wait until a file, or a folder's list of names, is on disk, if the file system supports it."""
    if not durable:
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
