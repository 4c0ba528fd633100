"""File formats for named arrays: NumPy's ``.npz``, and ``.safetensors``.

Each format has a function that writes arrays, with the generators of any keys among them, and one that opens a file:
its headers are read and checked against its size before any array is. Nothing is pickled or unpickled.
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

_LONGEST = 100_000_000  # bytes of a header, the bound set by the .safetensors format

_DENSEST = 1032  # the highest compression ratio of a ZIP archive: 258 bytes for every two bits

_COUNT = b"%d arrays"  # the comment of an .npz file written by `save`

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""The names of dtypes in .safetensors."""


class Contents(NamedTuple):
    """The contents of an open file."""

    arrays: dict[str, jax.ShapeDtypeStruct]
    """shape and dtype of each array; of keys, those of their words"""
    generators: dict[str, str]
    """the generators of those arrays that are keys"""
    read: Callable[[str], np.ndarray]
    """reads an array by its name"""


def write_npz(path: Path, arrays: dict[str, np.ndarray], generators: dict[str, str]) -> None:
    """Write as `numpy.savez`, but with any names; dtypes foreign to NumPy are stored as integers of their size."""
    foreign = {name: array.dtype.name for name, array in arrays.items() if array.dtype.isbuiltin == 2}
    plain = {name: array.view(f"u{array.itemsize}") if name in foreign else array for name, array in arrays.items()}
    plain["__metadata__"] = np.array(json.dumps({"dtypes": foreign, "generators": generators}))
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = _COUNT % len(plain)  # shows that a damaged directory ends early, which nothing else would
        for name, array in plain.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def open_npz(file: BinaryIO) -> Contents:
    """The contents of an ``.npz`` file.

    Raises:
        Exception: of any kind, if the file is damaged or of another format.
    """
    archive = zipfile.ZipFile(file)
    members = dict[str, zipfile.ZipInfo]()
    if archive.comment.endswith(_COUNT[2:]) and archive.comment != _COUNT % len(archive.infolist()):
        raise ValueError(f"{len(archive.infolist())} found of its {archive.comment.decode(errors='replace')}")
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise ValueError(f"its member {member.filename!r} is not an array")
        if name in members:
            raise ValueError(f"its member {member.filename!r} occurs twice")
        members[name] = member
    plain = {name: _header(archive, member) for name, member in members.items()}

    def stored(name: str) -> np.ndarray:
        with archive.open(members[name]) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    has_metadata = plain.pop("__metadata__", None) is not None
    if has_metadata and members["__metadata__"].file_size > _LONGEST:
        raise ValueError("its metadata are too long")
    metadata = json.loads(stored("__metadata__").item()) if has_metadata else {}
    dtypes = {name: jnp.dtype(dtype) for name, dtype in metadata.get("dtypes", {}).items()}
    arrays = {name: jax.ShapeDtypeStruct(a.shape, dtypes.get(name, a.dtype)) for name, a in plain.items()}
    if any(arrays[name].dtype.itemsize != plain[name].dtype.itemsize for name in dtypes):
        raise ValueError("its dtypes do not have the sizes of its arrays")
    return Contents(arrays, dict(metadata.get("generators", {})), lambda name: stored(name).view(arrays[name].dtype))


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array in an archive, after checking that the archive can hold as many bytes."""
    densest = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DENSEST}.get(member.compress_type, 0)
    with archive.open(member) as content:
        version = np.lib.format.read_magic(content)
        reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = reads[version](content)
        size = content.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which are never unpickled: allow_pickle=False")
    if size != member.file_size or member.file_size > densest * member.compress_size:
        raise ValueError(f"the size of {member.filename} does not fit its shape {shape} and dtype {dtype}")
    return jax.ShapeDtypeStruct(shape, dtype)


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], generators: dict[str, str]) -> None:
    """Write arrays by the library safetensors.

    Raises:
        TypeError: a dtype that the format cannot restore.
        ImportError: the library is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "save: expected the library safetensors to write a .safetensors file, got none. Run pip install "
            "safetensors, or use .npz."
        ) from None
    for name, array in arrays.items():
        if array.itemsize > 8 or (array.dtype.isbuiltin == 2 and array.dtype.name != "bfloat16"):
            raise TypeError(
                f"save: expected a dtype that .safetensors can restore, got {array.dtype} of {name}. Save as .npz."
            )
    hashes = {name: _hash(array) for name, array in arrays.items()}
    metadata = {"generators": json.dumps(generators), "sha256": json.dumps(hashes)}
    path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))


def _hash(array: np.ndarray) -> str:
    """A hash of an array with its shape and dtype: the format defines no checksum."""
    return hashlib.sha256(f"{array.dtype.name} {array.shape}".encode() + array.tobytes()).hexdigest()


def open_safetensors(file: BinaryIO) -> Contents:
    """The contents of a ``.safetensors`` file: the length of a header, the header in JSON, the arrays end to end.

    Files written by `save` contain a hash of every array, which reveals damage; other files need none.

    Raises:
        Exception: of any kind, if the file is damaged or of another format.

    Source: https://github.com/huggingface/safetensors#format
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _LONGEST):
        raise ValueError(f"its header cannot have {length} of its {size} bytes")
    header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_once)
    metadata = header.pop("__metadata__", {})
    arrays = {name: jax.ShapeDtypeStruct(tuple(of["shape"]), _dtype(name, of["dtype"])) for name, of in header.items()}
    begins = dict[str, int]()
    end = 8 + length
    for name, of in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, beyond = (8 + length + offset for offset in of["data_offsets"])
        if begin != end or beyond - begin != _bytes(arrays[name]):
            raise ValueError(f"the size of {name} does not fit its shape and dtype, or it is not next to its neighbour")
        begins[name] = begin
        end = beyond
    if end != size:
        raise ValueError(f"it has {size} bytes where its arrays need {end}")

    hashes = json.loads(metadata["sha256"]) if "sha256" in metadata else None
    if hashes is not None and hashes.keys() != arrays.keys():
        raise ValueError("its hashes are not those of its arrays")

    def read(name: str) -> np.ndarray:
        file.seek(begins[name])
        found = np.fromfile(file, np.uint8, _bytes(arrays[name])).view(arrays[name].dtype).reshape(arrays[name].shape)
        if hashes is not None and _hash(found) != hashes[name]:
            raise ValueError(f"{name} does not have the hash that it was saved with")
        return found

    return Contents(arrays, json.loads(metadata.get("generators", "{}")), read)


def _dtype(name: str, dtype: str) -> np.dtype:
    if dtype not in _DTYPES:
        raise ValueError(f"{name} has the unknown dtype {dtype}")
    return jnp.dtype(_DTYPES[dtype])


def _bytes(array: jax.ShapeDtypeStruct) -> int:
    return math.prod(array.shape) * array.dtype.itemsize


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict, after checking that no key occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


FORMATS = {".npz": (write_npz, open_npz), ".safetensors": (write_safetensors, open_safetensors)}
"""The functions that write and open each format, by file suffix."""
