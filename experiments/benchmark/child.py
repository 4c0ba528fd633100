"""What is measured in a process of its own: a cold start, and the peak memory of a sweep.

``python -m experiments.benchmark.child cold fnn`` and ``… cold plain`` train a network for digits from a standing
start; ``… memory SEEDS`` sweeps over so many seeds of a small one. Each prints a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
import time

STEPS = 560  # ten epochs of digits
SMALL = (16, 16, 16, 4)


def cold(who: str) -> dict[str, float]:
    """The times at which the package was imported and the first network trained, by the clock of the machine."""
    module = {"fnn": "experiments.benchmark.ours", "plain": "experiments.benchmark.plain"}[who]
    contender = importlib.import_module(module)
    prepare = contender.by_hand if who == "fnn" else contender.vmapped
    imported = time.time()
    problem = importlib.import_module("experiments.benchmark.problem").random_problem((64, 64, 64, 10), 32)
    train = prepare(problem, 1)
    train(STEPS)
    first = time.time()
    train(STEPS)
    return {"imported": imported, "first": first, "again": time.time() - first}


def memory(seeds: int) -> dict[str, float]:
    """Peak memory in bytes of a process that sweeps over so many seeds, and how long it took."""
    fnn = importlib.import_module("fnn")
    ours = importlib.import_module("experiments.benchmark.ours")
    fnn.use_cores()
    problem = importlib.import_module("experiments.benchmark.problem").random_problem(SMALL, 16)
    begin = time.perf_counter()
    ours.by_hand(problem, seeds)(problem.batches)
    return {"peak": peak_memory(), "seconds": time.perf_counter() - begin}


def peak_memory() -> int:
    """The most bytes that this process has held; on Linux without what the process had that started it."""
    try:
        with open("/proc/self/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(*arguments: str) -> dict[str, float]:
    """What a child process prints, with the "begin" at which it was started."""
    begin = time.time()
    command = [sys.executable, "-m", "experiments.benchmark.child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) | {"begin": begin}


if __name__ == "__main__":
    what, argument = sys.argv[1:]
    print(json.dumps(cold(argument) if what == "cold" else memory(int(argument))))
