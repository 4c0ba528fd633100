"""A user's own table: what networks make of it, beside scikit-learn.

Command: ``python -m experiments --data TABLE``; about two minutes on two CPU cores for a table of some hundred rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments import report as r
from experiments import tables
from experiments.report.mathematics import literal
from experiments.tables import model, references, training
from experiments.tables.references import LINEAR, NOTHING
from experiments.tables.training import HELD_OUT, Length, Tried

MOST_ROWS, MOST_CELLS, SHOWN = 20_000, 4_000_000, 60
"""examples that are learned from, and features of them all; columns that a page shows"""
LEAD = (
    "Tried were a linear network and networks with hidden layers of ReLU, “64” of one with so many units, “64–64” of "
    "two, with several optimizers, each at several learning rates and over {seeds} random splits: {train} of the "
    "examples to learn from by {steps} steps with batches of {batch}, {held_out} for validation, which chooses the "
    "rate, the method and when to stop, and {held_out} to test{strata}. scikit-learn's methods learn from all but the "
    "same test examples. Numbers have mean 0 and variance 1 over the whole table. Intervals are over the splits of "
    "this one table. The best network, trained once more on all examples, is kept: {use} predicts another table by it."
)
DIFFERENCE = "error on test examples, the first less the second"
EASY = r.Claim("The best network has a smaller error than {nothing}.", quantity=DIFFERENCE)
LINEARLY = r.Claim("The best network has no larger error than scikit-learn's {linear}.", quantity=DIFFERENCE)
OTHERS = r.Claim("The best network has no larger error than any of scikit-learn's methods.", quantity=DIFFERENCE)
HIDDEN = r.Claim(
    "Hidden layers help: the best network with hidden layers has a smaller error than the linear one.",
    why="A linear function of the features may be all there is, or the table is too small to learn more.",
    quantity=DIFFERENCE,
)


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Try the networks and scikit-learn's methods, compare, and keep the best network."""
    if settings.data is None:
        raise tables.Unreadable("own_table: expected a table, got none. Give one by --data.")
    path = Path(settings.data.path)
    table = _at_most(tables.read(path, settings.data.answer, settings.data.answer_is))
    length = Length.of(settings, len(table.x))
    networks: dict[str, Tried] = {}
    for method in settings.pick(quick=training.METHODS[: training.QUICK], full=training.METHODS):
        log(f"{table.label}: {method.name}, {settings.seeds} splits × {len(method.rates)} learning rates")
        networks[method.name] = training.tried(method, table, settings, length)
    peers = references.measured(table, training.splits(table, settings), length, log)
    best = min(networks.values(), key=lambda found: found.validation.mean())
    log(f"{table.label}: {best.method.name} on all examples")
    kept = model.fitted(table, best.method, best.rate, max(1, round(float(np.median(best.steps)))), length)
    return r.Outcome(
        " ".join([*map(literal, _sentences(tables.described(table, columns=False))), _lead(table, settings, length)]),
        _verdicts(bool(table.answer.classes), networks, best, peers),
        title=_title(table, best, peers),
        tables=[_methods(table, networks, peers), *_confusion(table, best), *_classes(table), _columns(table)],
        figures=[_curves(networks, length)],
        numbers={
            "error": r.intervals({name: of.errors for name, of in networks.items()})
            | r.intervals({name: errors for name, (errors, _) in peers.items()}),
            "rate": {name: of.rate for name, of in networks.items()},
            "steps": {name: of.steps.mean() for name, of in networks.items()},
            "classes": dict(zip(table.answer.classes, table.answer.counts, strict=True)),
        },
        files=model.files(kept),
        about=f"A table of one’s own, {table.label}",
    )


def _at_most(table: tables.Table) -> tables.Table:
    """The table with as many examples as are learned from, drawn at random, and a word of it."""
    most = min(MOST_ROWS, MOST_CELLS // table.x.shape[1])
    if len(table.x) <= most:
        return table
    drawn = np.sort(np.random.default_rng(2026).permutation(len(table.x))[:most])
    said = f"of {len(table.x)} examples {most}, drawn at random, are learned from"
    return table._replace(x=table.x[drawn], y=table.y[drawn], warnings=(*table.warnings, said))


def _sentences(lines: list[str]) -> list[str]:
    """The lines of a description as sentences; the first begins with the name of the file, as it is."""
    return [f"{line}." if i == 0 else f"{line[0].upper()}{line[1:]}." for i, line in enumerate(lines)]


def _lead(table: tables.Table, settings: r.Settings, length: Length) -> str:
    return LEAD.format(
        seeds=settings.seeds,
        train=r.percent(1 - 2 * HELD_OUT),
        held_out=r.percent(HELD_OUT),
        steps=length.steps,
        batch=length.batch,
        strata=", each class in each part" if table.answer.classes else "",
        use="python -m experiments.predict REPORT TABLE",
    )


def _title(table: tables.Table, best: Tried, peers: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    ours, theirs = best.errors.mean(), min(errors.mean() for errors, _ in peers.values())
    if table.answer.classes:
        right, of_theirs = (r.percent(1 - error, 1) for error in (ours, theirs))
        return f"{table.label}: {table.answer.name} is predicted rightly in {right}, by scikit-learn in {of_theirs}"
    return f"{table.label}: {table.answer.name} is predicted with an error of {ours:.3g}, by scikit-learn {theirs:.3g}"


def _verdicts(
    classes: bool, networks: dict[str, Tried], best: Tried, peers: dict[str, tuple[np.ndarray, np.ndarray]]
) -> list[r.Verdict]:
    nothing, linear = NOTHING[classes], LINEAR[classes]

    def against(*names: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {f"{best.method.name} against {name}": (best.errors, peers[name][0]) for name in names}

    hidden = min((of for of in networks.values() if of.method.hidden), key=lambda of: of.validation.mean())
    flat = next(of for of in networks.values() if not of.method.hidden)
    return [
        r.smaller(EASY.filled(nothing=nothing), against(nothing)),
        r.smaller(LINEARLY.filled(linear=linear), against(linear), or_equal=True),
        r.smaller(OTHERS, against(*(name for name in peers if name != nothing)), or_equal=True),
        r.smaller(HIDDEN, {f"{hidden.method.name} against {flat.method.name}": (hidden.errors, flat.errors)}),
    ]


def _methods(
    table: tables.Table, networks: dict[str, Tried], peers: dict[str, tuple[np.ndarray, np.ndarray]]
) -> r.Table:
    classes = bool(table.answer.classes)

    def cells(errors: np.ndarray, r2: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": 1 - errors} if classes else {f"error of {table.answer.name}": errors, "R²": r2}

    rows = {
        name: cells(of.errors, of.r2)
        | {"η": f"{of.rate:g}", "steps": f"{of.steps.mean():.0f}", "validation loss": f"{of.validation.mean():.3g}"}
        for name, of in networks.items()
    }
    for name, found in peers.items():
        rows[f"{name}, scikit-learn"] = cells(*found) | {"η": "–", "steps": "–", "validation loss": "–"}
    what = "Accuracy" if classes else f"Root mean square error, in units of {table.answer.name}, and R²"
    return r.table(f"{what} on test examples, means over splits with 95 % intervals", "method", rows)


def _confusion(table: tables.Table, best: Tried) -> list[r.Table]:
    if not best.confusion.size:
        return []
    pairs = best.confusion.sum(axis=0)
    shares = 100 * pairs / np.maximum(pairs.sum(axis=1, keepdims=True), 1)
    rows = [(label, *(f"{share:.1f}" for share in of)) for label, of in zip(table.answer.classes, shares, strict=True)]
    caption = f"Per cent of the test examples of a class, a row, that {best.method.name} takes for each class"
    return [r.Table(caption, ("class", *table.answer.classes), rows)]


def _classes(table: tables.Table) -> list[r.Table]:
    if not table.answer.classes:
        return []
    counted = list(zip(table.answer.classes, table.answer.counts, strict=True))
    rows = [(label, str(count), r.percent(count / sum(table.answer.counts), 1)) for label, count in counted]
    return [r.Table(f"Classes of {table.answer.name}", ("class", "rows", "share"), rows[:SHOWN])]


def _columns(table: tables.Table) -> r.Table:
    rows = [
        (c.name, "taken" if c.taken else "left out", c.said if len(c.said) < 90 else f"{c.said[:88]} …", str(c.missing))
        for c in table.columns[:SHOWN]
    ]
    more = f"; the first {SHOWN} of {len(table.columns)}" if len(table.columns) > SHOWN else ""
    return r.Table(f"Columns of {table.label}{more}", ("column", "use", "as what, or why not", "cells missing"), rows)


def _curves(networks: dict[str, Tried], length: Length) -> r.Figure:
    lowest = ", ".join(f"{name} {of.validation.mean():.2g}" for name, of in networks.items())
    steps = length.every * np.arange(1, length.points + 1)
    with r.figure(6.4, 4.6) as canvas:
        axes = canvas.subplots()
        for color, (name, of) in zip(r.COLORS, networks.items(), strict=False):
            mean, half = r.interval(of.curve)
            axes.plot(steps, mean, color=color, label=name)
            axes.fill_between(
                steps, np.maximum(mean - half, mean / 10), mean + half, color=color, alpha=0.12, linewidth=0
            )
        axes.set(xlabel="step", ylabel="validation loss", yscale="log")
        canvas.legend(fontsize=9, ncols=3, loc="outside upper center")
        return r.finished(
            canvas,
            "Learning curves: the validation loss of each network at its best rate, mean and 95 % interval over splits",
            f"Line plot of the validation loss over the steps, a line for each network. The lowest: {lowest}.",
        )
