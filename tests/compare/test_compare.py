import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.records import make_run
from matplotlib.axes import Axes

from iwae_lab.compare.__main__ import main
from iwae_lab.compare.figure import MAX_ROWS, draw
from iwae_lab.compare.paper import SECOND_STAGES, TABLE_1, Published
from iwae_lab.compare.runs import find_runs, select
from iwae_lab.compare.tables import make_tables
from iwae_lab.console.errors import UserError
from iwae_lab.runs.record import read_record


@dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line, in this process."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it: it is to be put back

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leave:
            code = int(str(leave.code))
        return Done(code, *capfd.readouterr())

    return run


def tables_of(runs: Path, *where: str, by: str = "k"):
    return make_tables(select(find_runs([runs]).runs, list(where)), by)


def lines(axes: Axes) -> list[list[float]]:
    """The heights of each line that is not empty."""
    return [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata())]


def test_a_cell_is_the_mean_over_seeds_and_their_standard_error(compare, tmp_path):
    for seed, nll in enumerate((85.0, 86.0, 87.0)):
        make_run(tmp_path, seed=seed, nll=nll)
    [table] = tables_of(tmp_path)
    [row] = table.rows
    assert row.cells["1"].nll == pytest.approx(86.0)
    assert row.cells["1"].se == pytest.approx(1 / 3**0.5)
    assert "86.00 ± 0.58 ×3" in compare(tmp_path).out


def test_with_one_seed_the_error_is_that_over_images_and_is_marked(compare, tmp_path):
    make_run(tmp_path, nll=85.0, nll_se=0.21)
    assert "85.00 ± 0.21†" in compare(tmp_path).out


@pytest.mark.parametrize("by", ["k", "seed"])
@pytest.mark.parametrize(
    "key, values",
    [
        ("schedule.epochs", (20, 400)),
        ("objective.alpha", (0.5, 2)),
        ("schedule.learning_rate", (0.001, 0.0010000001)),
        ("init_from", ("a", "b")),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path, key, values, by):
    for value in values:
        make_run(tmp_path, **{key.replace(".", "__"): value})
    [table] = tables_of(tmp_path, by=by)
    assert [len(cell.runs) for row in table.rows for cell in row.cells.values()] == [1, 1]
    assert {row.label for row in table.rows} == {f"iwae {key}={value}" for value in values}


def test_bf16_sets_runs_apart_where_it_was_asked_for_and_not_where_auto_chose_it(tmp_path):
    for k, by_auto in ((1, "32"), (5, "bf16"), (50, "32")):
        result = make_run(tmp_path, k=k, precision="auto") / "result.json"
        result.write_text(json.dumps(json.loads(result.read_text()) | {"precision": by_auto}))
    make_run(tmp_path, k=5, seed=1, precision="32")
    [table] = tables_of(tmp_path)
    assert {row.label: {k: len(cell.runs) for k, cell in row.cells.items()} for row in table.rows} == {
        "iwae": {"1": 1, "5": 2, "50": 1}
    }
    make_run(tmp_path, k=50, seed=1, precision="bf16")
    [table] = tables_of(tmp_path)
    assert {row.label: {k: len(cell.runs) for k, cell in row.cells.items()} for row in table.rows} == {
        "iwae precision=32 or auto": {"1": 1, "5": 2, "50": 1},
        "iwae precision=bf16": {"50": 1},
    }


def test_one_seed_twice_is_no_repetition(compare, tmp_path):
    make_run(tmp_path, precision="auto", nll=85.0, finished="2026-01-01T01:00:00+00:00")
    later = make_run(tmp_path, precision="32", nll=85.5, finished="2026-01-02T01:00:00+00:00")
    output = compare(tmp_path)
    assert "85.50 ± 0.20†" in output.out and "×2" not in output.out
    assert "the same setting and seed, counted once: mnist-one_layer-iwae-k1-s0-" in output.out + output.err
    assert f"(as {later.name})" in " ".join((output.out + output.err).split())


def test_a_record_with_other_fields_is_named_and_left_out(compare, tmp_path):
    make_run(tmp_path)
    path = make_run(tmp_path, seed=1) / "result.json"
    content = json.loads(path.read_text())
    content["passes"] = content.pop("epochs")
    path.write_text(json.dumps(content))
    assert "1 run" in (output := compare(tmp_path)).out
    assert f"unreadable: {path}: expected the record of a run" in output.out + output.err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("test/active_units", None),
        ("test/active_units", 5),
        ("test/nll_se", None),
        ("test/nll_k", None),
        ("test/nll_50_se", None),
        ("test/ais/gain_se", None),
        ("test/gaps/approximation", "x"),
        ("test/overfitting/gap_se", None),
        ("test/unit_variances", [[float("nan")]]),
        ("test/nll", True),
    ],
)
def test_a_record_whose_metrics_were_edited_hides_no_other(compare, tmp_path, key, value):
    make_run(tmp_path / "runs")
    path = make_run(tmp_path / "runs", seed=1, ais_gain=0.3, encoder_gaps=(1.0, 2.0), train_gap=0.5) / "result.json"
    content = json.loads(path.read_text())
    content["metrics"] |= {key: value}
    if value is None:
        del content["metrics"][key]
    path.write_text(json.dumps(content))
    output = compare(tmp_path / "runs", "--out", tmp_path / "report")
    assert output.code == 0 and "1 run" in output.out
    assert f"unreadable: {path}: expected the " in output.out + output.err


def test_of_two_copies_of_a_run_the_finished_one_counts(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", status="failed", error="out of memory", finished="2026-01-02T01:00:00+00:00")
    [table] = tables_of(tmp_path)
    assert len(table.rows[0].cells["1"].runs) == 1


def test_what_changes_only_where_a_run_computes_does_not_divide_a_cell(tmp_path):
    make_run(tmp_path, seed=0, threads="1")
    make_run(tmp_path, seed=1, threads="2")
    [table] = tables_of(tmp_path)
    assert len(table.rows[0].cells["1"].runs) == 2


def test_an_objective_s_parameter_does_not_divide_the_rows_of_other_objectives(tmp_path):
    make_run(tmp_path, objective="vr", objective__alpha=0.5)
    make_run(tmp_path, objective="vr", objective__alpha=2.0)
    make_run(tmp_path, objective="vae")
    [table] = tables_of(tmp_path)
    assert [row.label for row in table.rows] == ["vae", "vr objective.alpha=0.5", "vr objective.alpha=2"]


def test_repetitions_of_two_stages_are_averaged_and_unlike_first_stages_are_not(tmp_path):
    for seed in (0, 1):
        for objective in ("vae", "iwae"):
            first = make_run(tmp_path, seed=seed, objective=objective)
            make_run(tmp_path, seed=seed, k=50, init_from=str(first))
    [table] = tables_of(tmp_path, "k=50")
    assert [len(row.cells["50"].runs) for row in table.rows] == [2, 2]
    starts = [row.setting["init_from"] for row in table.rows]
    assert starts[0].startswith("mnist-one_layer-iwae-k1-") and starts[1].startswith("mnist-one_layer-vae-k1-")
    assert [row.cells["50"].paper for row in table.rows] == [None, SECOND_STAGES["vae", 1, "iwae", 50]]


@pytest.mark.parametrize(
    "first", [{"protocol": "mnist/static"}, {"noise": "antithetic"}, {"model___target_": "mine.Relu"}]
)
def test_a_second_stage_has_the_paper_s_value_only_after_the_paper_s_first(tmp_path, first):
    folder = make_run(tmp_path, objective="vae", **first)
    make_run(tmp_path, k=50, init_from=str(folder))
    (table,) = (table for table in tables_of(tmp_path, "k=50"))
    assert [row.cells["50"].paper for row in table.rows] == [None]


@pytest.mark.parametrize("wrong", ["vae", "iwae"])
def test_only_the_vae_of_the_paper_is_its_iwae_with_one_sample(tmp_path, wrong):
    for objective, k in (("vae", 1), ("iwae", 50)):
        mine = {"objective___target_": "mine.Objective"} if objective == wrong else {}
        make_run(tmp_path, objective=objective, k=k, **mine)
    [table] = tables_of(tmp_path)
    assert not any(cell.borrowed for row in table.rows for cell in row.cells.values())


def test_runs_that_start_from_folders_of_one_name_are_told_apart_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, objective in (("a", "vae"), ("b", "iwae")):
        make_run(tmp_path / name, objective=objective).rename(tmp_path / name / "base")
        make_run(tmp_path / "second", k=50, init_from=f"{name}/base")
    for here, runs in ((tmp_path, "second"), (tmp_path / "second", "."), (tmp_path / "a", "..")):
        monkeypatch.chdir(here)
        [table] = tables_of(Path(runs), "k=50")
        assert [len(row.cells["50"].runs) for row in table.rows] == [1, 1]


def test_iwae_with_one_sample_is_shown_as_the_vae_s_runs_unless_it_has_its_own(compare, tmp_path):
    make_run(tmp_path, objective="vae", nll=86.5)
    make_run(tmp_path, objective="iwae", k=50)
    make_run(tmp_path, objective="dreg", k=50)
    done = compare(tmp_path, "--out", tmp_path / "out")
    assert "(3 runs)" in done.out and done.out.count("86.50 ± 0.20†‡") == 1
    assert "‡: the runs of VAE with k = 1" in done.out
    [table] = tables_of(tmp_path)
    cells = {row.objective: row.cells.get("1") for row in table.rows}
    assert cells["dreg"] is None and not cells["vae"].borrowed and cells["iwae"].borrowed
    assert cells["iwae"].paper == TABLE_1["mnist/dynamic"]["one_layer", "iwae", 1]
    make_run(tmp_path, objective="iwae", nll=86.6)
    [table] = tables_of(tmp_path)
    assert not any(cell.borrowed for row in table.rows for cell in row.cells.values())


@pytest.mark.parametrize("distance, bold", [(0.5, True), (0.2, False)])
def test_best_only_where_the_difference_exceeds_its_error(tmp_path, distance, bold):
    make_run(tmp_path, objective="iwae", nll=85.0, nll_se=0.2)
    make_run(tmp_path, objective="vae", nll=85.0 + distance, nll_se=0.2)
    make_run(tmp_path, objective="vae", nll=80.0, model="two_layer")  # another model is no rival
    [table] = tables_of(tmp_path)
    best = [row.objective for row in table.rows for cell in row.cells.values() if cell.best]
    assert best == (["iwae"] if bold else [])


def test_unlike_protocols_have_a_table_each_and_only_the_paper_s_have_its_numbers(tmp_path):
    own = "mnist#ab12cd34/dynamic 4000/500/100 L_100"
    make_run(tmp_path, protocol=own, evaluation__images=100)
    for protocol in TABLE_1:
        make_run(tmp_path, protocol=protocol, k=50, nll=84.0)
    make_run(tmp_path, k=50, seed=1, model__latents=[20])
    make_run(tmp_path, k=50, seed=2, objective___target_="mine.IWAE")
    make_run(tmp_path, k=50, seed=3, noise="antithetic")
    make_run(tmp_path, k=50, seed=4, model___target_="mine.Relu")
    make_run(tmp_path, k=50, seed=5, objective="vae", objective___target_="iwae_lab.objectives.iwae.IWAE")
    tables = {table.protocol: table for table in tables_of(tmp_path)}
    assert set(tables) == {own, *TABLE_1}
    assert [row.cells["1"].paper for row in tables[own].rows] == [None]
    for protocol in TABLE_1:
        (original,) = (cell for row in tables[protocol].rows if (cell := row.cells["50"]).paper)
        assert original.runs[0].record.seed == 0, "those of other models, objectives and noise have none"
        assert original.paper == TABLE_1[protocol]["one_layer", "iwae", 50]
        assert original.minus_paper == pytest.approx(84.0 - original.paper.nll)


def test_the_paper_s_table_is_whole():
    cells = {(model, o, k) for model in ("one_layer", "two_layer") for o in ("vae", "iwae") for k in (1, 5, 50)}
    assert all(set(table) == cells for table in TABLE_1.values()) and len(TABLE_1) == 3
    assert TABLE_1["mnist/dynamic"]["two_layer", "iwae", 50].nll == 82.90
    assert TABLE_1["omniglot/burda"]["two_layer", "iwae", 50].active_units == (44, 7)
    assert TABLE_1["mnist/larochelle"]["one_layer", "iwae", 50] == Published(87.10, (24,))


@pytest.mark.parametrize(
    "option",
    [
        ["--where", "protocol=mnist/dynamic,mnist/larochelle"],
        ["--where", "binarization=dynamic,larochelle"],
        ["--where", "objective=iwae", "dataset.binarization=larochelle,dynamic"],
        ["--by", "binarization"],
        ["--by", "protocol"],
    ],
)
def test_mixing_protocols_is_refused_with_the_reason(compare, tmp_path, option):
    for protocol in ("mnist/dynamic", "mnist/larochelle"):
        make_run(tmp_path, protocol=protocol)
    done = compare(tmp_path, *option)
    assert done.code == 1 and done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert "not comparable" in done.err


@pytest.mark.parametrize(
    "where, found",
    [
        (["objective=iwae,vae"], 4),
        (["objective=vae"], 2),
        (["k=5", "objective=iwae"], 1),
        (["schedule.learning_rate=1e-3"], 4),
        (["epochs=20"], 4),
        (["model.hidden=[[200,200]]"], 4),
        (["init_from=null"], 4),
    ],
)
def test_where_takes_identity_keys_and_dotted_keys(tmp_path, where, found):
    for objective in ("vae", "iwae"):
        for k in (1, 5):
            make_run(tmp_path, objective=objective, k=k)
    assert len(select(find_runs([tmp_path]).runs, where)) == found


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--where", "objctive=vae"], "did you mean objective?"),
        (["--where", "objective=iwea"], "did you mean iwae?"),
        (["--where", "objective"], "expected key=value"),
        (["--where", "objective=vae", "k=1"], "no run meets all of them"),
        (["--by", "kk"], "did you mean k?"),
        (["elsewhere"], "elsewhere: expected a directory"),
        (["--out", "/dev/null/report"], "--out /dev/null/report: expected a directory that can be written"),
    ],
)
def test_a_mistake_is_one_line(compare, tmp_path, arguments, expected):
    make_run(tmp_path, objective="vae", k=5)
    make_run(tmp_path, objective="iwae", k=1)
    done = compare(tmp_path, *arguments)
    assert done.code == 1
    assert expected in done.err and done.err.count("\n") == 1


def test_by_another_key(tmp_path):
    for epochs in (20, 100):
        for objective in ("vae", "iwae"):
            make_run(tmp_path, objective=objective, schedule__epochs=epochs)
    [table] = tables_of(tmp_path, by="epochs")
    assert table.columns == ["20", "100"]
    assert [(row.label, len(row.cells)) for row in table.rows] == [("vae", 2), ("iwae", 2)]
    [table] = tables_of(tmp_path, by="objective")
    assert table.columns == ["iwae", "vae"]
    assert [row.setting for row in table.rows] == [{"schedule.epochs": "20"}, {"schedule.epochs": "100"}]


def test_what_is_in_no_table_is_counted_and_named(compare, tmp_path):
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=0)  # a copy: the same run
    running = make_run(tmp_path / "a", seed=1, status="running")
    diverged = make_run(tmp_path / "a", seed=3, nll=float("nan"))
    failed = make_run(tmp_path / "a", seed=2, status="failed", error="UserError: no data")
    broken = tmp_path / "a" / "broken"
    broken.mkdir()
    (broken / "result.json").write_text("{")
    output = compare(tmp_path).out
    assert "mnist/dynamic  (1 run)" in output
    assert f"1 failed: {failed.name} (UserError: no data)" in output
    assert f"1 running or killed: {running.name}" in output
    assert f"1 finished without a finite test NLL: {diverged.name}" in output
    assert "in two folders, counted once" in output
    assert str(broken) in output


def test_replaced_runs_are_passed_over(tmp_path):
    make_run(tmp_path, seed=0)
    make_run(tmp_path / ".replaced", seed=1)
    assert len(find_runs([tmp_path]).runs) == 1


def test_links_that_lead_back_and_folders_that_can_not_be_read_hide_no_run(compare, tmp_path, monkeypatch):
    make_run(tmp_path / "theirs", seed=1)
    make_run(tmp_path / "yours", seed=0)
    (tmp_path / "again").symlink_to(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if path == str(tmp_path / "theirs"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    output = compare(tmp_path).out
    assert "(1 run)" in output and f"unreadable: {tmp_path / 'theirs'}: Permission denied" in output


def test_a_truncated_picture_is_left_out(compare, tmp_path):
    folder = make_run(tmp_path / "runs", pictures=True)
    for path in (folder / "figures").glob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    done = compare(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "comparison.html").is_file()


def test_without_a_result_the_csv_still_names_its_columns(compare, tmp_path):
    make_run(tmp_path / "runs", status="failed", error="out of memory")
    compare(tmp_path / "runs", "--out", tmp_path / "out")
    (head,) = (tmp_path / "out" / "comparison.csv").read_text().splitlines()
    assert {"nll", "train_gap_se", "run_ids"} <= {*head.split(",")}


def test_no_run_at_all_is_an_error(tmp_path):
    with pytest.raises(UserError, match="found none"):
        find_runs([tmp_path])


def test_files_say_the_same(compare, tmp_path):
    for objective, nll in (("vae", 86.5), ("iwae", 84.9)):
        make_run(tmp_path / "runs", objective=objective, k=50, nll=nll)
    done = compare(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "**84.90 ± 0.20†** [25]<br>paper 84.78 +0.12" in markdown
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["objective"], row["nll"], row["best"], row["nll_se_over"]) for row in rows] == [
        ("vae", "86.5", "False", "images"),
        ("iwae", "84.9", "True", "images"),
    ]
    assert float(rows[1]["minus_paper"]) == pytest.approx(0.12)
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "comparison.html").stat().st_size < 8e6


def test_units_of_several_layers_come_with_a_warning(compare, tmp_path):
    make_run(tmp_path, k=1)
    assert "merely follow the layer above" not in compare(tmp_path).out
    make_run(tmp_path, model="two_layer")
    assert "merely follow the layer above" in compare(tmp_path).out


def test_the_encoders_gaps_are_shown_where_every_run_has_them(compare, tmp_path):
    make_run(tmp_path, seed=0, encoder_gaps=(0.5, 2.0))
    make_run(tmp_path, seed=1, encoder_gaps=(0.7, 2.5))
    make_run(tmp_path, objective="vae", seed=0, encoder_gaps=(0.5, 2.0))
    make_run(tmp_path, objective="vae", seed=1)
    printed = compare(tmp_path, "--out", tmp_path / "out").out
    assert printed.count("amortization 2.") == 1 and "approximation 0.60, amortization 2.25" in printed
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        gaps = {row["objective"]: (row["approximation_gap"], row["amortization_gap"]) for row in csv.DictReader(file)}
    assert gaps["vae"] == ("", "") and [*map(float, gaps["iwae"])] == pytest.approx([0.6, 2.25])


def test_signal_to_noise_is_drawn_where_it_was_measured(tmp_path):
    for k in (1, 5):
        make_run(tmp_path, objective="vae", k=k)
        for seed in (0, 1):
            path = make_run(tmp_path, k=k, seed=seed) / "result.json"
            record = json.loads(path.read_text())
            if k == 5 or seed == 0:  # a cell is drawn if all of its runs were measured
                snr = {"diagnostics/snr/generative": 2.0 * k + seed, "diagnostics/snr/inference": 0.5 / k}
                record["metrics"] |= snr
            path.write_text(json.dumps(record))
    figure = draw(make_tables(find_runs([tmp_path]).runs, "k"))
    assert [axes.get_ylabel() for axes in figure.axes[2:4]] == ["gradient SNR of θ", "gradient SNR of φ"]
    assert lines(figure.axes[2]) == [[10.5]] and lines(figure.axes[3]) == [[0.1]]
    without = draw(make_tables(select(find_runs([tmp_path]).runs, ["objective=vae"]), "k"))
    assert not any("SNR" in axes.get_xlabel() + axes.get_ylabel() for axes in without.axes)


def test_tightness_and_active_units_by_threshold_are_drawn(tmp_path):
    make_run(tmp_path, k=50, nll=85.0, ais_gain=0.5)
    make_run(tmp_path, k=50, nll=86.0, objective="vae")
    nll, units = draw(make_tables(find_runs([tmp_path]).runs, "k")).axes[2:4]
    curves = [(list(line.get_xdata()), list(line.get_ydata())) for line in nll.lines]
    assert ([50, 5000], [86.0, 85.0]) in curves and ([50, 5000], [87.0, 86.0]) in curves
    assert ([0, 1], [84.5, 84.5]) in curves, "what AIS makes of the one"
    record = read_record(next(tmp_path.glob("*-iwae-*")))
    (variances,) = record.metrics["test/unit_variances"]
    steps = [patch.get_data() for patch in units.patches]
    counts = [step.values[step.edges[:-1] <= -2][-1] for step in steps]
    assert sum(variance > 0.01 for variance in variances) in counts
    assert all(step.values[0] == len(variances) and step.values[-1] == 0 for step in steps)


def test_validation_nll_is_drawn_over_epochs_and_minutes(tmp_path):
    for schedule in ("fast", "quick"):
        folder = make_run(tmp_path, schedule__name=schedule)
        rows = [
            {"step": 40, "epoch": 1, "minutes": 0.5, "val/nll": 99.0},
            {"step": 80, "epoch": 2, "minutes": 1.0},
            {"step": 120, "epoch": 3, "val/nll": 90.0},
        ]
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "epoch", "minutes", "val/nll"])
            writer.writeheader()
            writer.writerows(rows)
    epochs, minutes = draw(make_tables(find_runs([tmp_path]).runs, "k")).axes[-2:]
    assert epochs.get_ylabel() == minutes.get_ylabel() == "validation NLL (nats)"
    assert lines(epochs) == [[99.0, 90.0]] * 2 and lines(minutes) == [[99.0]] * 2
    assert {line.get_label() for line in minutes.lines} == {"iwae schedule=fast", "iwae schedule=quick"}


def test_only_unfinished_runs_are_reported_and_written_too(compare, tmp_path):
    make_run(tmp_path / "runs", status="failed", error="lost")
    done = compare(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "1 failed" in done.out
    assert "1 failed" in (tmp_path / "out" / "comparison.md").read_text()


def test_an_unreadable_curve_is_left_out_with_a_warning(compare, tmp_path, caplog):
    damaged = {"objective": "vae"}, {"objective": "dreg"}, {"objective": "stl"}
    for settings, content in zip(damaged, ("step,val/nll\n3,eighty\n", "\0\xff", "step,val/nll\n3,80\n"), strict=True):
        (make_run(tmp_path / "runs", **settings) / "metrics.csv").write_text(content)
    make_run(tmp_path / "runs")
    done = compare(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "(4 runs)" in done.out and len(caplog.messages) == 2, caplog.messages
    assert (tmp_path / "out" / "comparison.html").exists() and (tmp_path / "out" / "comparison.png").exists()


def test_neither_torch_nor_lightning_nor_wandb_is_imported(tmp_path):
    make_run(tmp_path)
    code = (
        f"import sys; sys.argv = ['compare', {str(tmp_path)!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "from iwae_lab.compare.__main__ import main; main()\n"
        "print(sorted({'torch', 'pytorch_lightning', 'wandb', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


@pytest.mark.benchmark
def test_five_thousand_records_take_less_than_ten_seconds_and_500_mb(tmp_path):
    for seed in range(10):
        for objective in ("vae", "iwae", "dreg", "stl", "vimco"):
            for k in (1, 5, 10, 50, 100):
                for rate in range(20):
                    settings = {"objective": objective, "k": k, "schedule__learning_rate": (1 + rate) / 1000}
                    make_run(tmp_path / "runs", seed=seed, nll=85 + rate / 20 - k / 50, **settings)
    command = [sys.executable, "-m", "iwae_lab.compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    with (tmp_path / "printed").open("w") as printed:
        process = subprocess.Popen(command, stdout=printed, cwd=ROOT)
        _, code, used = os.wait4(process.pid, 0)
    assert code == 0 and "(5000 runs)" in (tmp_path / "printed").read_text()
    assert (tmp_path / "out/comparison.html").exists()
    assert used.ru_utime + used.ru_stime < 10
    assert used.ru_maxrss < 500 * 1024  # KiB


def test_results_of_one_column_are_marks_beside_their_names_and_of_several_lines(tmp_path):
    make_run(tmp_path, k=50, nll=84.5)
    make_run(tmp_path, k=50, nll=85.5, objective="dreg")
    nll, units = draw(make_tables(find_runs([tmp_path]).runs, "k")).axes[:2]
    assert [label.get_text() for label in nll.get_yticklabels()] == ["iwae", "dreg"]
    assert nll.get_xlabel() == "test NLL (nats), k=50" and units.get_xlim()[0] == 0
    assert {tuple(line.get_xdata()) for line in nll.lines} >= {(84.5,), (85.5,)}
    make_run(tmp_path, k=5, nll=83.5, objective="stl")
    nll, _ = draw(make_tables(find_runs([tmp_path]).runs, "k")).axes[:2]
    assert [label.get_text() for label in nll.get_yticklabels()] == ["iwae, k=50", "dreg, k=50", "stl, k=5"]
    assert nll.get_xlabel() == "test NLL (nats)"
    assert {tuple(line.get_xydata()[0]) for line in nll.lines} >= {(84.5, 0), (85.5, 1), (83.5, 2)}
    make_run(tmp_path, k=5, nll=86.5)
    nll, _ = draw(make_tables(find_runs([tmp_path]).runs, "k")).axes[:2]
    assert [86.5, 84.5] in lines(nll) and nll.get_ylabel() == "test NLL (nats)"


def test_of_many_rows_the_lowest_are_drawn(tmp_path):
    for i in range(MAX_ROWS + 3):
        make_run(tmp_path, nll=85.0 + i, schedule__learning_rate=0.001 + i / 1000)
    figure = draw(make_tables(find_runs([tmp_path]).runs, "k"))
    assert f"the {MAX_ROWS} lowest of {MAX_ROWS + 3} rows" in figure.axes[0].get_title("left")
    assert len(figure.axes[0].get_yticklabels()) == MAX_ROWS
