"""BackProp over a batch can be divided among devices and processes.

Command: ``python -m experiments parallel``; 40 seconds on two CPU cores. Expect the same gradient from one core, two
devices and two processes, one number a weight summed over them, and times of 0.52 and 0.66.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import fnn
from experiments import report as r
from fnn.training import everywhere, global_batch, mesh, own_rows

ONE, DEVICES, PROCESSES = "one core", "two devices", "two processes"
LAYOUTS = {ONE: (1, 1), DEVICES: (1, 2), PROCESSES: (2, 1)}
"""processes, and devices of each"""
LINKS = {"10 Gbit/s, 50 µs": (1.25e9, 50e-6), "100 Gbit/s, 5 µs": (12.5e9, 5e-6), "400 GB/s, 2 µs": (400e9, 2e-6)}
"""bandwidth in bytes a second and latency of what joins the devices: Ethernet, InfiniBand, NVLink, by their order"""
COUNTS = (8, 64, 1024)
SAID = "parallel: "
"""how the lines of a process begin that are meant for the experiment"""
SECONDS = 300
"""for which a process waits for the other to start"""

EQUATION = r"""\frac{\partial Q}{\partial W} = \sum_k \frac{n_k}{n} \frac{\partial Q_k}{\partial W}
\text{device } k \text{ has } n_k \text{ of the } n \text{ examples}
T(k) = \frac{T(1)}{k} + 2 (k - 1) \cdot \text{latency}
{} + \frac{2 (k - 1)}{k} \cdot \frac{4 \dim\, W}{\text{bandwidth}}
\text{gradients summed along a ring}"""
LEAD = (
    "The same gradient is computed by one core, by two devices of one process on two cores, and by two processes with "
    "a core each that speak over the loopback interface, and their results and times are compared. It is that of the "
    "mean loss of a network with layers of {sizes} neurons over {examples} examples. Processes are bound to a core "
    "where the system can do so. The examples are divided, the weights are "
    "everywhere, and JAX inserts the sum. Times are taken in turn, {rounds} rounds; each is that of the slower "
    "process. Bytes are counted in the compiled program. What is said of more devices is a model, not a measurement: "
    "devices as fast as this core, gradients in float32 summed along a ring after the backward pass, with nothing "
    "hidden behind it, and no device late."
)
SAME = r.Claim(
    "One core, two devices and two processes find the same gradient (to 10⁻⁵ in its norm, in float32).",
    quantity="relative difference from the gradient of one core",
)
BYTES = r.Claim(
    "Devices send one number for each weight, however many examples they have (to 1 %).",
    quantity="numbers sent for each weight, with n and with 2n examples",
)
FASTER = r.Claim(
    "Two cores find the gradient in at most 0.7 of the time that one takes.",
    why="Likely causes: a network so small that its gradient takes longer to sum than to compute, or other programs "
    "that share the machine.",
    quantity="time over that of one core",
)


def experiment(sizes: tuple[int, ...], examples: int) -> tuple[Any, tuple[Any, ...], int]:
    """The compiled gradient over the devices of all processes, its arguments, and the bytes that it sends."""
    devices, random = mesh(), np.random.default_rng(2026)
    net = fnn.serial(*(fnn.dense(width, fnn.relu) for width in sizes[1:-1]), fnn.linear(sizes[-1]))
    x = random.normal(size=(examples, sizes[0])).astype(np.float32)
    y = random.integers(0, sizes[-1], examples)
    params, state = everywhere(net.init(jax.random.key(0), jnp.asarray(x[:2])), devices)
    rows = own_rows(examples, devices)
    given = params, state, global_batch((x[rows], y[rows]), devices), everywhere(jax.random.key(1), devices)
    whole = NamedSharding(devices, PartitionSpec())
    of = jax.jit(fnn.backprop(net, fnn.softmax_cross_entropy), out_shardings=whole)
    program = of.lower(*given).compile()
    return program, given, sent(program.as_text() or "")


def sent(program: str) -> int:
    """The bytes of all sums over devices in the text of a compiled program."""
    sums = re.findall(r" = (.*?) all-reduce(?:-start)?\(", program)
    arrays = [found for shape in sums for found in re.findall(r"[a-z](\d+)\[([\d,]*)\]", shape)]
    return sum(int(bits) // 8 * math.prod(int(n) for n in dims.split(",") if n) for bits, dims in arrays)


def child(sizes: list[int], examples: int, out: str) -> None:
    """One process: writes the gradient to a file, prints what it sends, and then, for each line it gets, a time."""
    program, given, bytes_sent = experiment(tuple(sizes), examples)
    doubled = experiment(tuple(sizes), 2 * examples)[2]
    gradient = program(*given)[1]
    flat = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient)])
    np.save(out, flat)
    print(SAID, json.dumps([bytes_sent, doubled]), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        jax.block_until_ready(program(*given))
        print(SAID, time.perf_counter() - begin, flush=True)


class Team:
    """The processes of a layout."""

    def __init__(self, layout: str, settings: tuple[Any, ...], folder: Path) -> None:
        """Start them, each with the problem and the place for its gradient."""
        count, devices = LAYOUTS[layout]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.outs = [folder / f"{count}x{devices}-{rank}.npy" for rank in range(count)]
        self.processes = []
        for rank, out in enumerate(self.outs):
            core = -1 if layout == DEVICES else rank
            given = json.dumps([rank, count, port, devices, core, *settings, str(out)])
            command = [sys.executable, "-m", "experiments.claims.parallel", given]
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
            self.processes.append(subprocess.Popen(command, env=environment, **pipes))

    def ask(self, line: str = "") -> list[Any]:
        """What each process says, after a line to each."""
        for process in self.processes if line else []:
            process.stdin.write(line)
            process.stdin.flush()
        return [self._said(process) for process in self.processes]

    def _said(self, process: Any) -> Any:
        """The next line that is meant for us; JAX prints others."""
        for line in process.stdout:
            if line.startswith(SAID):
                return json.loads(line.removeprefix(SAID))
        raise RuntimeError("parallel: a process ended early. Do processes reach each other over the loopback?")

    def end(self) -> None:
        """End all of them."""
        for process in reversed(self.processes):  # the first is the one that the others ask
            process.kill()
            process.communicate()


def measured(sizes: tuple[int, ...], examples: int, rounds: int) -> tuple[dict[str, Any], ...]:
    """By layout: the gradients, the bytes for n and 2n examples, and the seconds [rounds], taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        teams: dict[str, Team] = {}
        said: dict[str, Any] = {}
        try:
            for layout in LAYOUTS:  # one after another, for compiling takes all cores
                teams[layout] = Team(layout, (sizes, examples), Path(folder))
                said[layout] = teams[layout].ask()[0]
            seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
            for turn in range(rounds + 1):
                for layout in list(LAYOUTS)[:: 1 if turn % 2 else -1]:
                    seconds[layout].append(max(teams[layout].ask("go\n")))
            gradients = {layout: np.load(team.outs[0]) for layout, team in teams.items()}
            return gradients, said, {layout: np.array(of[1:]) for layout, of in seconds.items()}
        finally:
            for team in teams.values():
                team.end()


def foretold(seconds: float, size: int, link: tuple[float, float], k: Any) -> Any:
    """The seconds of a gradient on k devices, by the model."""
    bandwidth, latency = link
    return seconds / k + 2 * (k - 1) / k * size / bandwidth + 2 * (k - 1) * latency


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Divide one gradient, compare, and foretell."""
    sizes, examples = settings.pick(quick=((256, 256, 10), 512), full=((784, 1024, 1024, 10), 1024))
    log(f"one gradient of {'-'.join(map(str, sizes))} by one core, two devices and two processes")
    gradients, said, seconds = measured(sizes, examples, settings.seeds)
    reference = gradients[ONE]
    several = (DEVICES, PROCESSES)
    norm = np.linalg.norm(reference)
    off = {name: float(np.linalg.norm(gradients[name] - reference) / norm) for name in several}
    per_weight = {name: [count / (4 * reference.size) for count in said[name]] for name in several}
    ratios = {name: seconds[name] / seconds[ONE] for name in several}
    one = float(np.median(seconds[ONE]))
    sent = {
        name: (np.allclose((n, more), 1, rtol=0.01), f"{n:.4f} and {more:.4f}")
        for name, (n, more) in per_weight.items()
    }
    return r.Outcome(
        LEAD.format(sizes="-".join(map(str, sizes)), examples=examples, rounds=settings.seeds),
        [
            r.judged_each(SAME, {name: (of <= 1e-5, r.scientific(of)) for name, of in off.items()}),
            r.judged_each(BYTES, sent),
            r.at_most(FASTER, 0.7, ratios),
        ],
        EQUATION,
        slide=12,
        tables=[_times(seconds, ratios, said), _model(one, 4 * reference.size)],
        figures=[_picture(one, 4 * reference.size)],
        numbers={
            "seconds": {name: float(np.median(of)) for name, of in seconds.items()},
            "ratio to one core": {name: float(np.median(of)) for name, of in ratios.items()},
            "bytes": {name: said[name][0] for name in several},
            "weights": reference.size,
            "relative difference": off,
        },
    )


def _times(seconds: dict[str, Any], ratios: dict[str, Any], said: dict[str, Any]) -> r.Table:
    rows = {
        name: {
            "seconds (median)": f"{np.median(of):.4f}",
            "ratio to one core (median)": f"{np.median(ratios[name]):.2f}" if name in ratios else "1",
            "bytes summed": str(said[name][0]) if name in ratios else "0",
        }
        for name, of in seconds.items()
    }
    return r.table("One gradient, measured", "by", rows)


def _model(seconds: float, size: int) -> r.Table:
    rows = {}
    for name, link in LINKS.items():
        fixed = {f"speed-up, {k} devices": f"{seconds / foretold(seconds, size, link, k):.1f}" for k in COUNTS}
        kept = {f"efficiency, {k} devices": f"{seconds / foretold(k * seconds, size, link, k):.0%}" for k in COUNTS}
        rows[name] = fixed | kept
    caption = (
        "Foretold by the model: the speed-up when the same examples are divided, and the share of the time that is "
        "spent in computing when each device has as many examples as the core above"
    )
    return r.table(caption, "link", rows)


def _picture(seconds: float, size: int) -> r.Figure:
    k = 2.0 ** np.arange(11)
    with r.figure() as canvas:
        axes = canvas.subplots()
        axes.plot(k, k, ":", color="#888888", label="k times")
        best = {}
        for color, (name, link) in zip(r.COLORS, LINKS.items(), strict=False):
            speed = seconds / foretold(seconds, size, link, k)
            best[name] = f"{speed.max():.0f} at {k[speed.argmax()]:.0f} devices for {name}"
            axes.plot(k, speed, marker="o", markersize=3, color=color, label=name)
        axes.set(xscale="log", yscale="log", xlabel="devices k", ylabel="speed-up T(1)/T(k)")
        axes.legend()
        return r.finished(
            canvas,
            "The speed-up that the model foretells for the same batch on more devices, by bandwidth and latency",
            "Line plot on logarithmic axes. The lines follow the dotted diagonal at first, and fall off where summing "
            f"the gradients takes as long as computing them. Their highest points: {'; '.join(best.values())}.",
        )


def main() -> None:
    """One of the processes, as `Team` starts it."""
    rank, count, port, devices, core, sizes, examples, out = json.loads(sys.argv[1])
    if core >= 0 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})
    jax.config.update("jax_num_cpu_devices", devices)
    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, rank, initialization_timeout=SECONDS)
    child(sizes, examples, out)


if __name__ == "__main__":
    main()
