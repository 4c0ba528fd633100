"""Parameters kept: to the bit, under readable names, with every misfit named; transplanted and frozen."""

import errno
import itertools
import json
import os
import pickle
import stat
import struct
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    adam,
    batch_norm,
    dense,
    dropout,
    linear,
    serial,
    squared,
    tanh,
    train,
    trainer,
)
from fnn.optimizers import freeze, mask_of_parts
from fnn.training import all_but_head, first_parts, load, save, transplant
from fnn.training import checkpoints as module

with_safetensors = pytest.mark.skipif(find_spec("safetensors") is None, reason="safetensors is not installed")


every_format = pytest.mark.parametrize("suffix", [".npz", pytest.param(".safetensors", marks=with_safetensors)])


class Pair(NamedTuple):
    """A node with named children, as optimizer states are."""

    k: Any
    v: Any


def a_tree() -> Any:
    """Kinds of nodes, dtypes and awkward names; values whose last bit matters."""
    third = np.float64(1) / 3
    return (
        {"w": jnp.full((3, 2), third), "b": jnp.full(2, third, jnp.float32)},
        (),
        Pair(k=jnp.asarray(7, jnp.int32), v=[jnp.full((2, 1), third, jnp.bfloat16), jnp.asarray(-0.0, jnp.bfloat16)]),
        {"a.b": np.arange(6.0).reshape(2, 3).T, "a": {"b": np.array([True, False])}, "a%2Eb": np.zeros((0, 4))},
        OrderedDict(file=jnp.asarray([np.nan, np.inf]), __metadata__=np.ones(1, np.float16), allow_pickle=np.ones(1)),
        {
            "keys": jax.random.split(jax.random.key(3), 4),
            "key": jax.random.key(5, impl="rbg"),
            "": np.full(1, 255, np.uint8),
        },
        {
            "raw": jax.random.PRNGKey(1),
            "complex": np.full(1, 1 + 2j, np.complex64),
            "a\\b": np.ones(2),
            "a/b": np.ones(3),
        },
    )


def bits(leaf: Any) -> tuple:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
    return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()


def assert_same_bits(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        assert bits(a) == bits(b), jax.tree_util.keystr(path)
        assert isinstance(a, np.ndarray) == isinstance(b, np.ndarray), jax.tree_util.keystr(path)


# Saving and loading


@every_format
def test_every_bit_comes_back(tmp_path, suffix):
    tree = a_tree()
    save(tmp_path / f"tree{suffix}", tree)
    assert_same_bits(load(tmp_path / f"tree{suffix}", like=tree), tree)


@every_format
@pytest.mark.parametrize(
    "tree", [np.arange(3.0), (), {"": np.ones(2)}, {"__metadata__": np.ones(2), "file": jnp.ones(())}], ids=str
)
def test_small_trees_come_back(tmp_path, suffix, tree):
    save(str(tmp_path / f"tree{suffix}"), tree)
    assert_same_bits(load(str(tmp_path / f"tree{suffix}"), like=tree), tree)


@every_format
def test_names_are_paths_and_differ_where_paths_differ(tmp_path, suffix):
    save(tmp_path / f"tree{suffix}", a_tree())
    found = load(tmp_path / f"tree{suffix}")
    assert {"0.w", "0.b", "2.k", "2.v.0", "2.v.1", "3.a%2Eb", "3.a.b", "3.a%252Eb", "4.file"} <= found.keys()
    assert len(found) == len(jax.tree.leaves(a_tree()))
    assert found["2.v.0"].dtype == jnp.bfloat16
    assert type(found["0.w"]) is np.ndarray
    assert found["0.w"].flags.writeable
    assert found["5.keys"].dtype == jax.random.key(0).dtype


@with_safetensors
def test_others_read_the_files_and_are_read(tmp_path):
    import safetensors.numpy as safetensors

    w, half = np.arange(6.0).reshape(2, 3), jnp.asarray([1.5, 2.0], jnp.bfloat16)
    save(tmp_path / "a.npz", {"w": w})
    assert np.array_equal(np.load(tmp_path / "a.npz", allow_pickle=False)["w"], w)
    np.savez(tmp_path / "b.npz", w=w)
    assert np.array_equal(load(tmp_path / "b.npz")["w"], w)
    save(tmp_path / "a.safetensors", {"w": w.T})
    assert np.array_equal(safetensors.load_file(tmp_path / "a.safetensors")["w"], w.T)
    safetensors.save_file({"w": w, "half": np.asarray(half)}, tmp_path / "b.safetensors", metadata={"format": "pt"})
    found = load(tmp_path / "b.safetensors", like={"w": w, "half": half})
    assert_same_bits(found, {"w": w, "half": half})
    save(tmp_path / "c.safetensors", {"half": half})
    raw = (tmp_path / "c.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["half"]["dtype"] == "BF16"


@with_safetensors
def test_dtypes_that_safetensors_cannot_give_back_are_for_npz(tmp_path):
    for dtype in ("float8_e5m2", "int4", "float8_e4m3fn", "complex128"):
        tree = {"w": np.ones((2, 3), jnp.dtype(dtype))}
        save(tmp_path / "tree.npz", tree)
        assert_same_bits(load(tmp_path / "tree.npz", like=tree), tree)
        with pytest.raises(TypeError, match=rf"got {dtype} of w\. Save as .npz"):
            save(tmp_path / "tree.safetensors", tree)
    assert [file.name for file in tmp_path.iterdir()] == ["tree.npz"]


@every_format
def test_all_misfits_are_listed(tmp_path, suffix):
    path = tmp_path / f"tree{suffix}"
    save(path, ({"w": jnp.ones((3, 8)), "b": jnp.ones(8)}, {"gamma": jnp.ones(8)}, jax.random.PRNGKey(0)))
    like = ({"w": jnp.ones((3, 16)), "b": jnp.ones(8, jnp.float32)}, {"beta": jnp.ones(8)}, jax.random.key(0))
    with pytest.raises(ValueError, match="5 differences") as error:
        load(path, like=like)
    for line in (
        "0.w: float64 (3, 16) in like, float64 (3, 8) in the file",
        "0.b: float32 (8,) in like, float64 (8,) in the file",
        "1.beta: float64 (8,) in like, missing in the file",
        "1.gamma: missing in like, float64 (8,) in the file",
        "2: key<fry> () in like, uint32 (2,) in the file",
        "transplant",
    ):
        assert line in str(error.value)


def test_a_reshape_of_the_same_size_is_a_misfit(tmp_path):
    save(tmp_path / "w.npz", {"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"1 difference:\n  w: float64 \(3, 2\) in like"):
        load(tmp_path / "w.npz", like={"w": jnp.ones((3, 2))})


def test_nothing_is_narrowed_where_jax_has_no_float64(tmp_path):
    save(tmp_path / "w.npz", {"w": np.ones(2)})
    with jax.enable_x64(False):
        assert load(tmp_path / "w.npz", like={"w": np.ones(2)})["w"].dtype == np.float64
        with pytest.raises(ValueError, match=r"w: float64 \(2,\), which needs .*jax_enable_x64"):
            load(tmp_path / "w.npz", like={"w": jax.ShapeDtypeStruct((2,), np.dtype("float64"))})


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    save(tmp_path / "w.npz", {"w": jnp.ones(2)})

    def broken(path: Path, *arguments: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setitem(module.FORMATS, ".npz", (broken, module.FORMATS[".npz"][1]))
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "w.npz", {"w": jnp.zeros(2)})
    assert np.array_equal(load(tmp_path / "w.npz")["w"], np.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["w.npz"]


@every_format
def test_a_file_has_the_rights_that_any_new_file_has(tmp_path, suffix):
    save(tmp_path / f"w{suffix}", {"w": jnp.ones(2)})
    (tmp_path / "ordinary").write_bytes(b"")
    assert os.stat(tmp_path / f"w{suffix}").st_mode == os.stat(tmp_path / "ordinary").st_mode


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", w=np.array([{"an": "object"}], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load(tmp_path / "evil.npz")


# Damaged files


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def npy(shape: str, dtype: str = "<f8", content: bytes = b"") -> bytes:
    """A file .npy by the letter of its format."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def tensors(header: Any, content: bytes = b"") -> bytes:
    """A file .safetensors by the letter of its format."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def metadata(content: Any) -> bytes:
    text = json.dumps(content)
    return npy("()", f"<U{len(text)}", text.encode("utf-32-le"))


ONE = npy("(3,)", content=np.arange(3.0).tobytes())


NPZ: dict[str, Any] = {
    "empty": b"",
    "one byte": b"x",
    "no archive": b"hello " * 99,
    "a pickle": pickle.dumps([1, 2]),
    "an npy": ONE,
    "no npy in it": {"w": b"abc"},
    "an empty npy": {"w.npy": b""},
    "no array in it": {"w.npy": b"abc" * 99},
    "an array cut short": {"w.npy": ONE[:-8]},
    "an array that goes on": {"w.npy": ONE + bytes(8)},
    "373 GiB": {"w.npy": npy("(50000000000,)")},
    "less than nothing": {"w.npy": npy("(-3,)")},
    "a long header": {"w.npy": npy("(3,)" + " " * 20000, content=bytes(24))},
    "examples": {"w.npy": npy("(1,)", "|O", pickle.dumps([1]))},
    "a later version": {"w.npy": ONE[:6] + b"\x09" + ONE[7:]},
    "metadata no JSON": {"w.npy": ONE, "__metadata__.npy": npy("()", "<U1", "{".encode("utf-32-le"))},
    "metadata a list": {"w.npy": ONE, "__metadata__.npy": metadata([1])},
    "a dtype unknown": {"w.npy": ONE, "__metadata__.npy": metadata({"dtypes": {"w": "float7"}})},
    "a dtype of another size": {"w.npy": ONE, "__metadata__.npy": metadata({"dtypes": {"w": "bfloat16"}})},
    "a dtype of nothing": {"w.npy": ONE, "__metadata__.npy": metadata({"dtypes": {"zz": "bfloat16"}})},
    "a generator of nothing": {"w.npy": ONE, "__metadata__.npy": metadata({"generators": {"zz": "rbg"}})},
    "a generator unknown": {"w.npy": ONE, "__metadata__.npy": metadata({"generators": {"w": "dice"}})},
    "a generator of floats": {"w.npy": ONE, "__metadata__.npy": metadata({"generators": {"w": "rbg"}})},
}


W = {"dtype": "F64", "shape": [3], "data_offsets": [0, 24]}


TENSORS = {
    "empty": b"",
    "one byte": b"x",
    "cut in the header": tensors({"w": W})[:20],
    "cut in the data": tensors({"w": W}, bytes(23)),
    "too long": tensors({"w": W}, bytes(25)),
    "a header longer than the file": (10**12).to_bytes(8, "little") + b"{}",
    "no JSON": tensors(b"{nothing", bytes(24)),
    "a list": tensors([1]),
    "null": tensors(b"null"),
    "not UTF-8": tensors(b'{"\xff": 1}'),
    "a deep nest": tensors(b"[" * 10**5),
    "no dtype": tensors({"w": {"shape": [3], "data_offsets": [0, 24]}}, bytes(24)),
    "a dtype unknown": tensors({"w": W | {"dtype": "F7"}}, bytes(24)),
    "373 GiB": tensors({"w": W | {"shape": [50000000000], "data_offsets": [0, 400000000000]}}, bytes(24)),
    "another shape": tensors({"w": W | {"shape": [4]}}, bytes(24)),
    "a shape of words": tensors({"w": W | {"shape": "ab"}}, bytes(24)),
    "less than nothing": tensors({"w": W | {"shape": [-1, -3]}}, bytes(24)),
    "one over the other": tensors({"w": W, "v": W | {"data_offsets": [8, 32]}}, bytes(32)),
    "a gap": tensors({"w": W, "v": W | {"data_offsets": [32, 56]}}, bytes(56)),
    "a name twice": tensors(b'{"w": %s, "w": %s}' % ((json.dumps(W).encode(),) * 2), bytes(24)),
    "a generator of nothing": tensors({"w": W, "__metadata__": {"generators": '{"zz": "rbg"}'}}, bytes(24)),
    "a generator no JSON": tensors({"w": W, "__metadata__": {"generators": "{"}}, bytes(24)),
}


DAMAGED = [(".npz", name, content) for name, content in NPZ.items()]


DAMAGED += [(".safetensors", name, content) for name, content in TENSORS.items()]


@pytest.mark.parametrize(("suffix", "content"), [pytest.param(s, c, id=f"{n}{s}") for s, n, c in DAMAGED])
@pytest.mark.parametrize("like", [None, {"w": np.zeros(3)}], ids=["flat", "like"])
def test_a_damaged_file_is_named_in_one_error(tmp_path, suffix, content, like):
    path = tmp_path / f"some{suffix}"
    archive(path, content) if isinstance(content, dict) else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"load: .*(damaged|the tensors of like)") as error:
        load(path, like)
    assert str(path) in str(error.value)
    assert "allow_pickle=True" not in str(error.value)
    assert "unsafely" not in str(error.value)
    if like is None:
        assert len(str(error.value).splitlines()) == 1
        assert "is damaged or of another format" in str(error.value)


@every_format
def test_a_file_cut_anywhere_or_with_any_byte_flipped_is_named_or_as_it_was(tmp_path, suffix):
    tree = {"w": np.arange(3.0), "key": jax.random.key(3), "half": jnp.ones(2, jnp.bfloat16)}
    save(tmp_path / f"whole{suffix}", tree)
    whole, path = (tmp_path / f"whole{suffix}").read_bytes(), tmp_path / f"some{suffix}"
    spoilt = [whole[:length] for length in range(0, len(whole), 5)]
    if suffix == ".npz":  # .safetensors has no check sum
        spoilt += [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(len(whole))]
    for content in spoilt:
        path.write_bytes(content)
        try:
            found = load(path, tree)
        except ValueError as error:
            told = str(error)
        else:
            told = str(path)
            assert_same_bits(found, tree)
        assert str(path) in told


def test_what_a_file_says_of_its_size_is_looked_at_before_anything_is_made_of_it(tmp_path):
    path, million = tmp_path / "bomb.npz", 10**6
    zeros = npy(f"({5 * million},)", content=bytes(40 * million))
    for content, like in ((ONE + bytes(40 * million), None), (zeros, {"w": np.zeros(3)})):
        archive(path, {"w.npy": content}, zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < million
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"bomb\.npz"):
            load(path, like)
        assert tracemalloc.get_traced_memory()[1] < million
        tracemalloc.stop()
    archive(path, {"w.npy": npy("(100,)", content=bytes(800))}, zipfile.ZIP_DEFLATED)
    assert np.array_equal(load(path)["w"], np.zeros(100))
    header = npy("(50000000,)")  # and nothing after it, but the archive says that there is
    archive(path, {"w.npy": header}, zipfile.ZIP_DEFLATED)
    sizes = [(len(header) + more).to_bytes(4, "little") for more in (0, 8 * 50000000)]
    assert path.read_bytes().count(sizes[0]) == 2
    path.write_bytes(path.read_bytes().replace(*sizes))
    with pytest.raises(ValueError, match=r"the size of w\.npy does not fit its shape \(50000000,\)"):
        load(path)


def test_a_file_that_is_not_there_is_no_damaged_one(tmp_path):
    for suffix in (".npz", ".safetensors"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load(tmp_path / f"nowhere{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(OSError, match="folder"):
            load(tmp_path / f"folder{suffix}")


def test_every_dtype_of_safetensors_is_read_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    bits = {  # 1 and −2 by the formats' own definitions: sign, exponent, mantissa
        "F8_E4M3": (b"\x38\xc0", "float8_e4m3fn"),
        "F8_E5M2": (b"\x3c\xc0", "float8_e5m2"),
        "F8_E4M3FNUZ": (b"\x40\xc8", "float8_e4m3fnuz"),
        "F8_E5M2FNUZ": (b"\x40\xc4", "float8_e5m2fnuz"),
        "F16": (b"\x00\x3c\x00\xc0", "float16"),
        "BF16": (b"\x80\x3f\x00\xc0", "bfloat16"),
        "F32": (b"\x00\x00\x80\x3f\x00\x00\x00\xc0", "float32"),
        "F64": (bytes(6) + b"\xf0\x3f" + bytes(7) + b"\xc0", "float64"),
        "C64": (b"\x00\x00\x80\x3f" + bytes(6) + b"\x00\x00" + b"\x00\x00\x00\xc0" + bytes(4), "complex64"),
        **{f"I{8 * n}": (b"\x01" + bytes(n - 1) + b"\xfe" + b"\xff" * (n - 1), f"int{8 * n}") for n in (1, 2, 4, 8)},
    }
    for name, (content, dtype) in bits.items():
        content = content if name != "C64" else struct.pack("<4f", 1, 0, -2, 0)
        of = {"dtype": name, "shape": [1, 2], "data_offsets": [0, len(content)]}
        (tmp_path / "a.safetensors").write_bytes(tensors({"w": of}, content))
        found = load(tmp_path / "a.safetensors")["w"]
        assert (found.shape, str(found.dtype), found.flags.writeable) == ((1, 2), dtype, True)
        assert found.astype(np.complex128).tolist() == [[1, -2]]
    (tmp_path / "a.safetensors").write_bytes(
        tensors({"w": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}, b"\x7f\x80")
    )
    assert load(tmp_path / "a.safetensors")["w"].astype(float).tolist() == [1, 2]
    for name, content, wanted in (("BOOL", b"\x01\x00", [True, False]), ("U16", b"\x01\x00\xff\xff", [1, 65535])):
        of = {"dtype": name, "shape": [2], "data_offsets": [0, len(content)]}
        (tmp_path / "a.safetensors").write_bytes(tensors({"w": of}, content))
        assert load(tmp_path / "a.safetensors")["w"].tolist() == wanted


def test_several_may_write_the_same_file_at_once_and_no_draft_stays(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: save(tmp_path / "w.npz", {"w": np.full(1000, number)}), range(200)))
    found = load(tmp_path / "w.npz")["w"]
    assert np.all(found == found[0])
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    told, fsync, replace = [], os.fsync, os.replace

    def kept(handle: int) -> None:
        told.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr("os.fsync", kept)
    monkeypatch.setattr("os.replace", lambda *names: (told.append("name"), replace(*names)))
    save(tmp_path / "w.npz", {"w": np.ones(3)})
    assert told == ["file", "name", "folder"]


def test_a_file_system_without_fsync_does(tmp_path, monkeypatch):
    def none(handle: int) -> None:
        raise OSError(errno.EINVAL, "no fsync here")

    monkeypatch.setattr("os.fsync", none)
    save(tmp_path / "w.npz", {"w": np.ones(3)})
    assert np.array_equal(load(tmp_path / "w.npz")["w"], np.ones(3))


@pytest.fixture(scope="module")
def training():
    """A trainer's start, its step, and the state's structure."""
    x = jax.random.normal(jax.random.key(0), (24, 3))
    data = x, jnp.sin(x[:, :1])
    learn = trainer(serial(dense(4, tanh), batch_norm(), dropout(0.3), linear(1)), squared, adam(0.01), batch_size=5)
    step = jax.jit(lambda state: learn.step(state, data)[0])
    return learn.init(jax.random.key(1), data), step, jax.eval_shape(learn.init, jax.random.key(9), data)


@every_format
def test_a_run_goes_on_from_a_file_as_if_never_cut(tmp_path, suffix, training):
    start, step, like = training
    unbroken = cut = start
    for _ in range(20):
        unbroken = step(unbroken)
    for _ in range(10):
        cut = step(cut)
    save(tmp_path / f"state{suffix}", cut)
    resumed = load(tmp_path / f"state{suffix}", like=like)
    assert_same_bits(resumed, cut)
    for _ in range(10):
        resumed = step(resumed)
    assert_same_bits(resumed, unbroken)
    assert int(resumed.step) == 20


def test_what_cannot_be_saved_says_why(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"save: expected a format by the suffix, .npz or .safetensors, got 'w.pt'"):
        save(tmp_path / "w.pt", {})
    with pytest.raises(ValueError, match=r"load: expected a format by the suffix"):
        load(tmp_path / "w")
    with pytest.raises(FileNotFoundError, match=r"save: expected an existing folder, got .*\. Make it by"):
        save(tmp_path / "nowhere" / "w.npz", {"w": np.ones(1)})
    with pytest.raises(TypeError, match=r"the leaf '0.w': expected an array, got float. Convert by jnp.asarray"):
        save(tmp_path / "w.npz", ({"w": 1.0},))
    with pytest.raises(TypeError, match=r"got a traced leaf 'w'\. Save outside of jit"):
        jax.jit(lambda w: save(tmp_path / "w.npz", {"w": w}))(jnp.ones(1))
    for strange in (np.array(["text"]), np.array([None]), np.ones(2, ">f4"), np.zeros(1, [("x", "f4")])):
        with pytest.raises(TypeError, match=r"expected numbers in the machine's byte order"):
            save(tmp_path / "w.npz", {"w": strange})
    save(tmp_path / "w.npz", {"w": np.ones(1)})
    with pytest.raises(TypeError, match=r"the leaf 'w': expected an array, got float"):
        load(tmp_path / "w.npz", like={"w": 1.0})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.numpy", raising=False)
    with pytest.raises(ImportError, match=r"pip install safetensors, or use \.npz"):
        save(tmp_path / "w.safetensors", {"w": np.ones(1)})


def test_leaves_that_a_node_of_the_users_makes_alike_are_refused(tmp_path):
    class Twins(NamedTuple):
        pair: Any

    jax.tree_util.register_pytree_with_keys(
        Same := type("Same", (), {}),
        lambda node: ([(jax.tree_util.DictKey("x"), np.ones(1)), (jax.tree_util.GetAttrKey("x"), np.ones(1))], None),
        lambda aux, children: Same(),
    )
    with pytest.raises(ValueError, match=r"two leaves have the same path pair\.x"):
        save(tmp_path / "w.npz", Twins(Same()))


# Transplanting


def widths(*sizes: int, fill: float = 0.0, dtype: Any = jnp.float64) -> tuple:
    """Params of dense layers of these widths, every weight of its own."""
    number = itertools.count(fill)
    return tuple(
        {"w": jnp.full((i, o), next(number), dtype), "b": jnp.full(o, next(number), dtype)}
        for i, o in itertools.pairwise(sizes)
    )


def values(params: Any) -> list[list[float]]:
    """The number each w and b is filled with."""
    return [[float(part[name].ravel()[0]) for name in ("w", "b")] for part in params]


def test_named_parts_come_from_the_source_and_no_others():
    into, source = widths(5, 4, 4, 3), widths(5, 4, 4, 4, 9, fill=10)
    got = transplant(into, source, {0: 0, 1: 2})
    assert values(got) == [[10, 11], [14, 15], [4, 5]]
    assert jax.tree.structure(got) == jax.tree.structure(into)
    assert values(into) == [[0, 1], [2, 3], [4, 5]]


def test_parts_are_paths_too():
    into, source = {"net": widths(5, 4, 4), "mean": jnp.zeros(3)}, Pair(k=widths(9, 4, 4, fill=10), v=jnp.ones(3))
    got = transplant(into, source, {("net", -1): ("k", 1), ("net", 0, "b"): ("k", 0, "b"), "mean": "v"})
    assert values(got["net"]) == [[0, 11], [12, 13]]
    assert got["mean"].tolist() == [1, 1, 1]


def test_common_cases():
    deep, source = widths(5, 4, 4, 4, 2), widths(5, 4, 4, 7, fill=10)
    assert values(transplant(deep, source, first_parts(2))) == [[10, 11], [12, 13], [4, 5], [6, 7]]
    assert all_but_head(source) == {0: 0, 1: 1}
    net = serial(dense(4, tanh), dropout(0.5), linear(2), dropout(0.5))
    params, _ = net.init(jax.random.key(0), jnp.ones((1, 3)))
    assert all_but_head(params) == {0: 0, 1: 1}
    assert_same_bits(transplant(params, params, all_but_head(params)), params)


def test_every_part_that_does_not_fit_is_named():
    into, source = widths(5, 4, 4, 3), widths(5, 8, 4, 3, fill=10, dtype=jnp.float32)
    with pytest.raises(ValueError, match="transplant: expected equal parts, got 5 differences") as error:
        transplant(into, (*source, {"gamma": jnp.ones(3)}), {0: 0, 2: 3})
    for line in (
        "part 0 from part 0, w: float64 (5, 4) in into, float32 (5, 8) in source",
        "part 2 from part 3, b: float64 (3,) in into, missing in source",
        "part 2 from part 3, gamma: missing in into, float64 (3,) in source",
        "Give both networks the same widths and dtypes there, or leave the part out.",
    ):
        assert line in str(error.value)
    with pytest.raises(ValueError, match=r"float32 .* in source"):
        transplant(into, widths(5, 4, dtype=jnp.float32), {0: 0})
    with pytest.raises(ValueError, match=r"transplant: into has no part 3: no 3 \(its parts are 0, 1, 2\)"):
        transplant(into, source, {3: 0})
    with pytest.raises(ValueError, match=r"source has no part \(0, 'x'\): no 'x' in 0 \(its parts are b, w\)"):
        transplant(into, source, {0: (0, "x")})
    with pytest.raises(ValueError, match=r"no part \(0, 'w', 1\).*there is no part at all"):
        mask_of_parts(into, [(0, "w", 1)])
    with pytest.raises(ValueError, match=r"got part 0.w twice, as it lies in 0\. Name it once"):
        transplant(into, into, {(0, "w"): (0, "w"), 0: 0})
    with pytest.raises(ValueError, match="k must be a whole number >= 1"):
        first_parts(0)
    with pytest.raises(ValueError, match="expected weights before the head"):
        all_but_head(widths(5, 4))
    with pytest.raises(TypeError, match="expected its params as a tuple"):
        all_but_head({"w": 1, "b": 2})


# Freezing


def test_training_does_not_move_what_was_transplanted():
    x = jax.random.normal(jax.random.key(0), (16, 3))
    net = serial(dense(4, tanh), dense(4, tanh), linear(1))
    source, _ = net.init(jax.random.key(1), x)
    learn = trainer(net, squared, freeze(adam(0.1), mask_of_parts(source, all_but_head(source))), batch_size=8)
    state = start = learn.init(jax.random.key(2), (x, x[:, :1]))
    state = state._replace(params=transplant(state.params, source, all_but_head(source)))
    state, _ = train(learn, state, (x, x[:, :1]), 3)
    assert_same_bits(state.params[:2], source[:2])
    assert not np.array_equal(state.params[2]["w"], start.params[2]["w"])


def test_a_flipped_byte_is_found_in_both_formats(tmp_path: Path) -> None:
    tree = {
        "w": jnp.arange(6.0, dtype=jnp.float32).reshape(2, 3),
        "n": jnp.arange(3),
        "half": jnp.ones(3, jnp.bfloat16),
    }
    for suffix in (".npz", ".safetensors"):
        path = tmp_path / f"net{suffix}"
        save(path, tree)
        whole, right, refusals = path.read_bytes(), load(path), []
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
            try:
                found = load(path)
            except ValueError as error:
                refusals.append(str(error))
            else:  # a byte that tells nothing, as of a date
                chex.assert_trees_all_equal(found, right)
        assert len(refusals) > len(whole) / 2
        assert all(str(path) in refusal for refusal in refusals)


def test_the_safetensors_of_others_need_no_hashes(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"w": np.ones(3, np.float32)}, tmp_path / "theirs.safetensors")
    assert load(tmp_path / "theirs.safetensors")["w"].tolist() == [1, 1, 1]


def test_a_file_keeps_its_permissions_and_a_link_its_end(tmp_path: Path) -> None:
    path, link = tmp_path / "net.npz", tmp_path / "latest.npz"
    save(path, {"w": jnp.ones(2)})
    path.chmod(0o600)
    link.symlink_to(path)
    save(link, {"w": jnp.zeros(2)})
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(path)["w"].tolist() == [0, 0]
