"""Formats of files that hold arrays by name: NumPy's ``.npz``, and ``.safetensors``.

Each writes arrays, with the generators of the keys among them, and opens a file: what it holds is told by its headers,
and agrees with its size, before any array is read. Nothing is pickled, and nothing unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LONGEST = 100_000_000  # bytes of a header, the format's own bound for .safetensors

_DENSEST = 1032  # bytes that a byte can stand for in a ZIP archive: 258 for every two bits

_COUNT = b"%d arrays"  # the comment of an .npz file that `save` wrote

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""What .safetensors calls the dtypes."""


class Held(NamedTuple):
    """What an open file holds."""

    arrays: dict[str, jax.ShapeDtypeStruct]
    """shape and dtype of each array; keys as their words"""
    generators: dict[str, str]
    """of the arrays that are keys"""
    read: Callable[[str], np.ndarray]
    """an array by its name"""


def write_npz(path: Path, arrays: dict[str, np.ndarray], generators: dict[str, str]) -> None:
    """Write as `numpy.savez`, but names of any kind; dtypes that are not NumPy's own go as integers of their size."""
    foreign = {name: array.dtype.name for name, array in arrays.items() if array.dtype.isbuiltin == 2}
    plain = {name: array.view(f"u{array.itemsize}") if name in foreign else array for name, array in arrays.items()}
    plain["__metadata__"] = np.array(json.dumps({"dtypes": foreign, "generators": generators}))
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = _COUNT % len(plain)  # a damaged directory may end early, and nothing else would tell
        for name, array in plain.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def open_npz(file: BinaryIO) -> Held:
    """What an ``.npz`` file holds.

    Raises:
        Exception: of any kind, where the file is damaged or of another format.
    """
    archive, members = zipfile.ZipFile(file), dict[str, zipfile.ZipInfo]()
    if archive.comment.endswith(_COUNT[2:]) and archive.comment != _COUNT % len(archive.infolist()):
        raise ValueError(f"of its {archive.comment.decode(errors='replace')}, {len(archive.infolist())} can be found")
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name == member.filename or name in members:
            raise ValueError(f"{member.filename!r} in it is {'no array' if name == member.filename else 'there twice'}")
        members[name] = member
    plain = {name: _header(archive, member) for name, member in members.items()}

    def stored(name: str) -> np.ndarray:
        with archive.open(members[name]) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    said = plain.pop("__metadata__", None)
    if said is not None and members["__metadata__"].file_size > _LONGEST:
        raise ValueError("its metadata are too long")
    metadata = json.loads(stored("__metadata__").item()) if said is not None else {}
    dtypes = {name: jnp.dtype(dtype) for name, dtype in metadata.get("dtypes", {}).items()}
    arrays = {name: jax.ShapeDtypeStruct(a.shape, dtypes.get(name, a.dtype)) for name, a in plain.items()}
    if any(arrays[name].dtype.itemsize != plain[name].dtype.itemsize for name in dtypes):
        raise ValueError("the dtypes in it have not the sizes that it gives them")
    return Held(arrays, dict(metadata.get("generators", {})), lambda name: stored(name).view(arrays[name].dtype))


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array in an archive, after a look whether there can be so many bytes of it."""
    densest = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DENSEST}.get(member.compress_type, 0)
    with archive.open(member) as content:
        version = np.lib.format.read_magic(content)
        reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = reads[version](content)
        size = content.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which are never unpickled: allow_pickle=False")
    if size != member.file_size or member.file_size > densest * member.compress_size:
        raise ValueError(f"{member.filename} has not the size of its shape {shape} and dtype {dtype}")
    return jax.ShapeDtypeStruct(shape, dtype)


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], generators: dict[str, str]) -> None:
    """Write by the library of that name.

    Raises:
        TypeError: a dtype that it cannot give back.
        ImportError: the library is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(".safetensors files need the library: pip install safetensors, or use .npz") from None
    for name, array in arrays.items():
        if array.itemsize > 8 or (array.dtype.isbuiltin == 2 and array.dtype.name != "bfloat16"):
            raise TypeError(f"save: {name} has dtype {array.dtype}, which .safetensors cannot give back; save as .npz")
    hashes = {name: _hash(array) for name, array in arrays.items()}
    metadata = {"generators": json.dumps(generators), "sha256": json.dumps(hashes)}
    path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))


def _hash(array: np.ndarray) -> str:
    """Of an array with its shape and dtype: the format has no checksum of its own."""
    return hashlib.sha256(f"{array.dtype.name} {array.shape}".encode() + array.tobytes()).hexdigest()


def open_safetensors(file: BinaryIO) -> Held:
    """What a ``.safetensors`` file holds: the length of a header, the header in JSON, and the arrays, end to end.

    Files that `save` wrote hold a hash of every array, by which damage is found; those of others need none.

    Raises:
        Exception: of any kind, where the file is damaged or of another format.

    Source: https://github.com/huggingface/safetensors#format
    """
    size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _LONGEST):
        raise ValueError(f"of its {size} bytes, {length} are said to be the header")
    header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_once)
    metadata = header.pop("__metadata__", {})
    begins, end = dict[str, int](), 8 + length
    arrays = {name: jax.ShapeDtypeStruct(tuple(of["shape"]), _dtype(name, of["dtype"])) for name, of in header.items()}
    for name, of in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, beyond = (8 + length + offset for offset in of["data_offsets"])
        if begin != end or beyond - begin != _bytes(arrays[name]):
            raise ValueError(f"{name} has not the size of its shape and dtype, or does not follow the array before it")
        begins[name], end = begin, beyond
    if end != size:
        raise ValueError(f"it has {size} bytes where its arrays need {end}")

    hashes = json.loads(metadata["sha256"]) if "sha256" in metadata else None
    if hashes is not None and hashes.keys() != arrays.keys():
        raise ValueError("the arrays in it are not those that it has hashes of")

    def read(name: str) -> np.ndarray:
        file.seek(begins[name])
        found = np.fromfile(file, np.uint8, _bytes(arrays[name])).view(arrays[name].dtype).reshape(arrays[name].shape)
        if hashes is not None and _hash(found) != hashes[name]:
            raise ValueError(f"{name} has not the hash that it was saved with")
        return found

    return Held(arrays, json.loads(metadata.get("generators", "{}")), read)


def _dtype(name: str, dtype: str) -> np.dtype:
    if dtype not in _DTYPES:
        raise ValueError(f"{name} has dtype {dtype}, which NumPy has not")
    return jnp.dtype(_DTYPES[dtype])


def _bytes(array: jax.ShapeDtypeStruct) -> int:
    return math.prod(array.shape) * array.dtype.itemsize


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of pairs whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


FORMATS = {".npz": (write_npz, open_npz), ".safetensors": (write_safetensors, open_safetensors)}
"""How each is written and opened, by the suffix of its files."""
