"""The page about a user's table, and the model that it keeps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from experiments import own_table, predict, tables
from experiments import report as r
from experiments.__main__ import Options, main
from experiments.report import storage
from experiments.tables import columns, model, numbers, references, training


def test_every_part_of_a_split_has_its_share_of_each_class() -> None:
    y = jnp.asarray([0] * 160 + [1] * 38 + [2] * 2, jnp.int32)
    rare_in_test = set()
    for seed in range(20):
        order = np.asarray(training.order_of(jax.random.key(seed), y, 3))
        assert sorted(order) == list(range(200))
        test, train = np.bincount(y[order[:30]], minlength=3), np.bincount(y[order[60:]], minlength=3)
        assert abs(test[0] - 24) <= 1
        assert abs(test[1] - 5.7) <= 1
        assert train[2] >= 1
        rare_in_test.add(int(test[2]))
    assert rare_in_test == {0, 1}  # not the same part each time


def learnable(folder: Path, rows: int = 120) -> Path:
    """Three classes by two numbers and a colour, an identifier, a missing cell."""
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=(2, rows)).round(3)
    colour = draw.choice(["red", "blue"], rows)
    kind = np.where(colour == "red", "Rot", np.where(a + b > 0, "hoch", "tief"))
    path = folder / "learnable.csv"
    frame = pd.DataFrame({"id": range(rows), "a": a, "b": b, "colour": colour, "kind": kind})
    frame.loc[3, "b"] = np.nan
    frame.to_csv(path, index=False, sep=";", decimal=",")
    return path


def test_the_page_is_about_the_table_and_its_model_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "METHODS", training.METHODS[:2])
    path, out = learnable(tmp_path), tmp_path / "out"
    with open(tmp_path / "printed", "w+", encoding="utf-8") as file:
        options = Options(data=path, quick=True, seeds=2, out=out)
        assert main(options, Console(file=file, width=200)) == 0
        assert main(options, Console(file=file, width=200)) == 0
        file.seek(0)
        printed = file.read()
    assert "120 rows, 120 taken; 5 columns, 3 taken as 4 features" in printed
    assert printed.index("columns left out: id (an identifier") < printed.index("learnable.csv: kind is predicted")
    assert "left out without --again: own_table" in printed
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<h1>learnable.csv: kind is predicted rightly in" in page
    for words in ("its 3 classes", "Columns left out: id", "logistic regression", "model.json"):
        assert words.casefold() in page.casefold()
    # what is stored is read again, and damaged files count as not there
    stored = storage.load(out, "own_table")
    assert stored is not None
    assert stored[0].files == {name: (out / name).read_bytes() for name in (model.WEIGHTS, model.DESCRIPTION)}
    # predictions of the table itself, its answers left out and its columns in another order
    other = tmp_path / "new.csv"
    pd.read_csv(path, sep=";", decimal=",").drop(columns="kind")[["colour", "b", "a"]].to_csv(other, index=False)
    monkeypatch.chdir(tmp_path)
    assert predict.main(predict.Options(out, other)) == 0
    assert "120 predictions: new.predictions.csv" in capsys.readouterr().out
    found = pd.read_csv("new.predictions.csv")
    assert list(found) == ["line", "kind", "P(Rot)", "P(hoch)", "P(tief)"]
    table = tables.read(path)
    np.testing.assert_allclose(found.filter(like="P(").sum(axis=1), 1, rtol=1e-5)
    assert np.mean(found["kind"].to_numpy() == np.array(table.answer.classes)[table.y]) > 0.8
    for read in (other, out / "model.json"):
        before = read.read_bytes()
        assert predict.main(predict.Options(out, other, read)) == 2
        assert "is read itself" in capsys.readouterr().err
        assert read.read_bytes() == before
    (out / "model.safetensors").write_bytes(b"other")
    assert storage.load(out, "own_table") is None
    assert predict.main(predict.Options(out, other)) == 2
    assert "is not the one that model.json describes" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["kind", "a"])
def test_a_loaded_model_predicts_what_it_did(tmp_path: Path, answer: str) -> None:
    path = learnable(tmp_path)
    table = tables.read(path, answer)
    length = training.Length(40, 4, 32)
    made = model.fitted(table, training.METHODS[3], 0.01, 40, length)  # with Dropout, which has no part in it
    for name, content in model.files(made).items():
        (tmp_path / name).write_bytes(content)
    loaded = model.load(tmp_path)
    assert loaded._replace(params=None) == made._replace(params=None)
    before, after = model.predicted(made, table.x), model.predicted(loaded, table.x)
    np.testing.assert_array_equal(before, after)
    x = tables.features_of(tables.cells(path), loaded.columns, path)
    np.testing.assert_array_equal(x, table.x)
    by_hand = table.x
    for i, part in enumerate(loaded.params):
        by_hand = by_hand @ np.asarray(part["w"]) + np.asarray(part["b"])
        by_hand = np.maximum(by_hand, 0) if i < 2 else by_hand
    if answer == "a":
        np.testing.assert_allclose(after, by_hand[:, 0] * table.answer.scale + table.answer.mean, rtol=1e-4, atol=1e-5)
    else:
        e = np.exp(by_hand - by_hand.max(axis=1, keepdims=True))
        np.testing.assert_allclose(after, e / e.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "expected a column colour, got a, b"),
        ("a,b,colour\n1,much,red\n", "got line 2: 'much' is no number"),
    ],
)
def test_a_table_that_does_not_fit_the_model_is_refused(tmp_path: Path, content: str, message: str) -> None:
    table = tables.read(learnable(tmp_path))
    (tmp_path / "new.csv").write_text(content, encoding="utf-8")
    with pytest.raises(tables.Unreadable, match=message):
        tables.features_of(tables.cells(tmp_path / "new.csv"), table.taken, tmp_path / "new.csv")


def test_new_cells_are_read_as_the_old_ones(tmp_path: Path) -> None:
    colour = columns.Words("colour", ("blue", "red", "missing"))
    series = pd.Series(["Red", "green", "", "blue"])
    np.testing.assert_array_equal(colour.encoded(series), [[0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]])
    series = pd.Series(["5.0", "NA", "-99"])  # another program wrote this one, with decimal points
    number = columns.Numbers("a", numbers.Written(numbers.COMMAS), (-99.0,), 2.0, 1.0, 2.0, True)
    for cells in (series, series.str.replace(".", ",")):
        np.testing.assert_array_equal(number.encoded(cells), [[2, 0], [0.5, 1], [0.5, 1]])


def test_errors_of_references_are_those_of_scikit_learn(tmp_path: Path) -> None:
    table = tables.read(learnable(tmp_path), "a")
    y = table.y[:, 0]
    errors, r2 = references._errors(table, np.zeros_like(y), y)
    a = pd.read_csv(tmp_path / "learnable.csv", sep=";", decimal=",")["a"].to_numpy()
    assert errors == pytest.approx(a.std(), rel=1e-5)  # the mean of all is off by a standard deviation
    assert r2 == pytest.approx(0, abs=1e-5)


def test_a_large_table_is_learned_from_in_part(tmp_path: Path) -> None:
    table = tables.read(learnable(tmp_path, 300))
    few = own_table._at_most(table._replace(x=np.tile(table.x, (200, 1)), y=np.tile(table.y, 200)))
    assert len(few.x) == len(few.y) == own_table.MOST_ROWS
    assert few.warnings[-1] == "of 60000 examples 20000, drawn at random, are learned from"
    assert own_table._at_most(table) is table


def test_a_page_needs_a_table() -> None:
    with pytest.raises(tables.Unreadable, match="Give one by --data"):
        own_table.run(r.Settings(2, True), print)
