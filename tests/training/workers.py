"""Jobs for several processes on this machine: ``python workers.py JOB RANK PROCESSES PORT DEVICES OUT``."""

import hashlib
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn import adam, batch_norm, dense, inverted_dropout, linear, relu, serial, shuffled, softmax_cross_entropy, train
from fnn.training import divided, everywhere, global_batch, learn_online, mesh, own_rows, resumable_fit, resumable_sweep
from fnn.training._claims import Claim, identity_of_array

JOBS: dict[str, Callable[[], Any]] = {}


def job(function: Callable[[], Any]) -> Callable[[], Any]:
    JOBS[function.__name__] = function
    return function


def plain(tree: Any) -> Any:
    """A tree of NumPy arrays, keys as their words."""

    def at_leaf(leaf: Any) -> np.ndarray:
        return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return jax.tree.map(at_leaf, tree)


def bits(tree: Any) -> str:
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(plain(tree)))).hexdigest()


@job
def hello() -> Any:
    """What JAX itself needs, and nothing of fnn."""
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(np.array(jax.process_index())))


X = np.random.default_rng(1).normal(size=(70, 6))  # no JAX array before the devices are counted
Y = np.argmax(X[:, :3], axis=1)


def data() -> Any:
    return jnp.asarray(X, float), jnp.asarray(Y)


NETS = {
    "dense": serial(dense(8, relu), linear(3)),
    "dropout": serial(dense(8, relu), inverted_dropout(0.3), linear(3)),
    "batch_norm": serial(linear(8, bias=False), batch_norm(), fnn.activate(relu), linear(3)),
    "copies": serial(fnn.grouped(dense(4, relu), 2), fnn.repeat(dense(8, fnn.tanh), 2), linear(3)),
}


@job
def sweeps() -> Any:
    """21 rows of every kind of result, some of which stop early, and fewer rows than devices."""

    def experiment(key: jax.Array, eta: Any, start: Any) -> Any:
        learn = fnn.trainer(NETS["dense"], softmax_cross_entropy, adam(eta), batch_size=10)
        state = learn.init(key, data())
        state, end = fnn.train_until_stable(learn, state, data(), max_steps=40, every=10, weights_tolerance=0.2)
        narrow = end.weights_change.astype(jnp.bfloat16) + start.astype(jnp.bfloat16)
        return {"end": state, "steps": end.steps, "stable": end.stable, "narrow": narrow, "nothing": jnp.zeros((0, 2))}

    keys = jax.random.split(jax.random.key(0), 7)
    found = fnn.sweep(experiment, keys, zipped={"start": jnp.arange(7.0)}, eta=[0.1, 0.01, 0.001])
    few = fnn.sweep(lambda key: jax.random.uniform(key), keys[:1])
    return plain((found, few))


def learner(name: str, draw: Any) -> Any:
    return fnn.trainer(NETS[name], softmax_cross_entropy, adam(0.01), batch_size=12, draw=draw)


@job
def training() -> Any:
    """Each network by divided batches; its state, metrics, and readings of one divided batch."""
    whole, found = mesh(), {}
    for name in NETS:
        learn = learner(name, divided(shuffled, whole))
        first = learn.init(jax.random.key(0), data())
        state, metrics = train(learn, everywhere(first, whole), everywhere(data(), whole), 30, every=10)
        found[name] = plain((state, metrics))
    net, params, state = NETS["dense"], *NETS["dense"].init(jax.random.key(2), data()[0])
    rows = own_rows(12, whole)
    batch = global_batch(jax.tree.map(lambda leaf: leaf[:12][rows], data()), whole)
    for read in (fnn.squared_norm, fnn.gram, fnn.variance):
        of = jax.jit(fnn.backprop(net, softmax_cross_entropy, read), out_shardings=None)
        readings = of(everywhere(params, whole), state, batch, jax.random.key(3))[1]
        found[str(read)] = plain(jax.jit(lambda t: t, out_shardings=_replicated(whole))(readings))
    return found


def _replicated(whole: Any) -> Any:
    return jax.sharding.NamedSharding(whole, jax.sharding.PartitionSpec())


@job
def pieces() -> Any:
    """A resumable sweep, whose process KILLED is killed when it has stored a piece."""

    def experiment(key: jax.Array, eta: Any) -> Any:
        learn = fnn.trainer(NETS["dense"], softmax_cross_entropy, adam(eta), batch_size=10)
        return train(learn, learn.init(key, data()), data(), 20)[0]

    keys, store = jax.random.split(jax.random.key(0), 4), Claim.store

    def killing(claim: Any, number: int, results: Any) -> None:
        store(claim, number, results)
        if os.environ.get("KILLED") == str(jax.process_index()):
            os.kill(os.getpid(), signal.SIGKILL)

    Claim.store = killing  # pyright: ignore[reportAttributeAccessIssue]
    return plain(resumable_sweep(os.environ["FOLDER"], experiment, keys, eta=[0.1, 0.01], pieces=5, progress=False))


@job
def claims() -> Any:
    """200 folders that all processes begin at once."""
    from fnn.training._processes import take_together

    for number in range(200):
        take_together(Claim(Path(os.environ["FOLDER"]) / str(number), "sweep", "piece", {"rows": number}))
    return sorted(path.name for path in Path(os.environ["FOLDER"]).glob("*/*"))


@job
def streams() -> Any:
    """`learn_online` on batches of which every process reads its own rows."""
    whole, learn = mesh(), learner("batch_norm", shuffled)
    state = everywhere(learn.init(jax.random.key(0), data()), whole)
    key, rows = jax.random.key(7), own_rows(12, whole)
    chosen = (np.asarray(shuffled(key, step, 70, 12))[rows] for step in range(20))
    batches = (global_batch(jax.tree.map(itemgetter(at), data()), whole) for at in chosen)
    done = learn_online(learn, state, batches, every=10)
    return plain((done.state, done.history))


@job
def fits() -> Any:
    """`fit` with validation, and second derivatives and pruning's scores of a divided batch."""
    whole = mesh()
    learn = learner("dropout", divided(shuffled, whole))
    everything = everywhere(data(), whole)
    loss = fnn.objective(fnn.inference_mode(NETS["dropout"]), softmax_cross_entropy)

    def held_out(state: Any) -> Any:
        return loss(state.params, state.layer_state, everything, state.key)[0]

    first = everywhere(learn.init(jax.random.key(0), data()), whole)
    done = fnn.fit(learn, first, everything, 30, chunk=10, validate=held_out, progress=False)
    return plain((done.best, done.history))


@job
def stops() -> Any:
    """A `fit`, or in a FOLDER a resumable one, one of whose processes is to stop after the second chunk of its call."""
    whole, how, place, told = mesh(), os.environ["HOW"], os.environ.get("FOLDER"), []
    learn = learner("dense", divided(shuffled, whole))
    fit = fnn.fit if place is None else partial(resumable_fit, place)

    def on_chunk(state: Any, row: Any) -> bool:
        time.sleep(0.05)
        told.append(row["step"])
        is_mine = jax.process_index() == 1 and len(told) == 2
        if is_mine and how != "on_chunk":
            os.kill(os.getpid(), {"interrupted": signal.SIGINT, "preempted": signal.SIGTERM}[how])
        return bool(is_mine and how == "on_chunk")

    first = everywhere(learn.init(jax.random.key(0), data()), whole)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = fit(learn, first, everywhere(data(), whole), 3000, chunk=10, on_chunk=on_chunk, progress=False)
    return done.stopped, done.history["step"].tolist(), plain(done.state)


@job
def gathers() -> Any:
    """What is divided over the processes, put on the devices of all; and its identity, which is that of the whole."""
    whole = mesh()
    rows = own_rows(12, whole)
    keys = jax.random.split(jax.random.key(1), 12)
    shares = global_batch(np.arange(12.0)[rows], whole)
    divided_keys = jax.jit(lambda t: t, out_shardings=shares.sharding)(everywhere(keys, whole))
    found, found_keys = everywhere((shares, divided_keys), whole)
    same = [identity_of_array(shares) == identity_of_array(plain(found)), bits(found_keys) == bits(keys)]
    return {"rows": plain(found), "again": same}


@job
def stops_online() -> Any:
    """The end of a stream that process 1 interrupts at its batch 25, with rows of 10 batches."""
    whole, learn = mesh(), learner("dense", shuffled)
    rows = own_rows(12, whole)

    def batches() -> Any:
        for number in range(3000):
            time.sleep(0.02)
            if number == 25 and jax.process_index() == 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield global_batch(jax.tree.map(lambda leaf: leaf[:12][rows], data()), whole)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    state = everywhere(learn.init(jax.random.key(0), data()), whole)
    done = learn_online(learn, state, batches(), every=10)
    return done.stopped, done.history["step"].tolist(), plain(done.state)


def stored_fit(learn: Any, state: Any, steps: int, **options: Any) -> Any:
    """A `resumable_fit` whose process KILLED is killed after a chunk, while that is being written or has been."""
    killed = os.environ.get("KILLED") == str(jax.process_index())
    last = os.environ.get("AT")

    def on_chunk(state: Any, row: Any) -> None:
        if killed and str(row["step"]) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return resumable_fit(
        os.environ["FOLDER"], learn, state, everywhere(data(), mesh()), steps, chunk=5, on_chunk=on_chunk, **options
    )


@job
def stored() -> Any:
    """Batch norm, dropout and patience; keys, averages and history of a run that is killed and goes on."""
    net = serial(linear(8, bias=False), batch_norm(), fnn.activate(relu), inverted_dropout(0.2), linear(3))
    learn = fnn.trainer(net, softmax_cross_entropy, adam(0.02), batch_size=12, draw=divided(shuffled, mesh()))
    whole_data = everywhere(data(), mesh())

    def held_out(state: Any) -> jax.Array:
        outputs = net.apply(state.params, state.layer_state, whole_data[0])
        return jnp.mean(softmax_cross_entropy.value(outputs, whole_data[1]))

    first = everywhere(learn.init(jax.random.key(0), data()), mesh())
    done = stored_fit(learn, first, 60, validate=held_out, patience=50, progress=False)
    return done.stopped, plain((done.state, done.best, done.history))


@job
def stored_parts() -> Any:
    """Weights divided along "model", stored in parts: the sharding and the numbers after going on."""
    learn, state, shardings = divided_weights()
    done = stored_fit(learn, state, int(os.environ["STEPS"]), progress=False)
    kept = jax.tree.map(lambda x, wanted: x.sharding.is_equivalent_to(wanted, x.ndim), done.state, shardings)
    return all(jax.tree.leaves(kept)), plain(jax.jit(lambda t: t, out_shardings=_replicated(mesh()))(done.state))


def divided_weights() -> Any:
    """A trainer, its state with weights divided along "model", and their shardings."""
    count = len(jax.devices())
    whole = mesh(data=1, model=count)
    learn = learner("dense", divided(shuffled, whole))

    def rule(path: Any, leaf: Any) -> Any:
        specs = {"[0]['w']": (None, "model"), "[0]['b']": ("model",), "[1]['w']": ("model", None)}
        found = [spec for name, spec in specs.items() if jax.tree_util.keystr(path).endswith(name)]
        return jax.sharding.NamedSharding(whole, jax.sharding.PartitionSpec(*(found[0] if found else ())))

    like = jax.eval_shape(lambda key: learn.init(key, data()), jax.random.key(0))
    shardings = jax.tree.map_with_path(rule, like)
    state = everywhere(learn.init(jax.random.key(0), data()), whole)
    return learn, jax.jit(lambda state: state, out_shardings=shardings)(state), shardings


@job
def tensor_parallel() -> Any:
    """Weights divided along "model": the sharding is kept, and the numbers are those of one device."""
    learn, state, shardings = divided_weights()
    state, _ = train(learn, state, everywhere(data(), mesh()), 20)
    kept = jax.tree.map(lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted, leaf.ndim), state, shardings)
    return all(jax.tree.leaves(kept)), plain(jax.jit(lambda t: t, out_shardings=_replicated(mesh()))(state))


@job
def refusals() -> Any:
    """The messages of what cannot be, in every process."""
    rank, whole, said = jax.process_index(), mesh(), {}
    keys = jax.random.split(jax.random.key(rank), 4)
    same, first = jax.random.split(jax.random.key(0), 4), learner("dense", shuffled).init(jax.random.key(0), data())
    others = [device for device in jax.devices() if device.process_index != rank]
    wrong: dict[str, Callable[[], Any]] = {
        "seeds": lambda: everywhere(learner("dense", shuffled).init(jax.random.key(rank), data()), whole),
        "data": lambda: everywhere((X + rank, Y), whole),
        "shapes": lambda: everywhere({"a": jnp.ones(rank + 1)}, whole),
        "structures": lambda: everywhere([jnp.ones(1)] * (rank + 1), whole),
        "keys": lambda: fnn.sweep(lambda key: jax.random.uniform(key), keys),
        "values": lambda: fnn.sweep(
            lambda key, eta: eta, jax.random.split(jax.random.key(0), 4), eta=[1.0, 2.0 + rank]
        ),
        "devices": lambda: fnn.sweep(lambda key: jax.random.uniform(key), keys, devices=others),
        "rows": lambda: own_rows(13, whole),
        "axis": lambda: divided(shuffled, whole, "model"),
        "explicit": lambda: divided(shuffled, jax.make_mesh((len(jax.devices()),), ("data",))),
        "sizes": lambda: mesh(data=7),
        "fit": lambda: resumable_fit("no", learner("dense", shuffled), first, data(), 10),
        "sweep": lambda: resumable_sweep(os.environ["FOLDER"], lambda key: jax.random.uniform(key), keys),
        "folder": lambda: resumable_sweep(Path(os.environ["FOLDER"]) / str(rank), lambda key: 1.0, same),
    }
    for name, call in wrong.items():
        try:
            call()
            said[name] = "nothing"
        except (ValueError, TypeError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said, plain(everywhere({"a": jnp.arange(3.0), "key": jax.random.key(5)}, whole))


if __name__ == "__main__":
    name, (rank, processes), port, devices, out = sys.argv[1], map(int, sys.argv[2:4]), *sys.argv[4:7]
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_enable_x64", bool(os.environ.get("X64")))
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, rank, heartbeat_timeout_seconds=10)
    found = JOBS[name]()
    with open(out, "wb") as file:
        pickle.dump(found, file)
