"""The report of fixed run folders is a fixed text, and what is in it is what the runs' files say."""

import csv
import json
from pathlib import Path

import pytest

from helpers.run_folders import TABLE2A, WHEN, predictions, write_run, write_table2a, write_test
from nlnet.cli.report import main
from nlnet.evaluation.predictions import FILE
from nlnet.reports.write import FILES, write_report

GOLDEN = Path(__file__).with_name("golden_table2a.md")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(*names: str, places: tuple[str, ...] = ("runs",)) -> str:
    write_report([Path(place) for place in places], names, Path("out"))
    return Path("out/report.md").read_text()


def records() -> list[dict[str, str]]:
    return list(csv.DictReader(Path("out/report.csv").read_text().splitlines()))


def test_the_report_of_fixed_folders(here: Path) -> None:
    list(write_table2a(Path("runs/sweep")))
    write_run(
        Path("runs/mine"), "mine_*", monitor="val/mAP", metrics={"val/mAP": 0.25}, typed={"optim.optimizer.lr": 0.1}
    )
    Path("runs/broken").mkdir()
    Path("runs/broken/summary.json").write_text('{"status": ')
    assert report() == GOLDEN.read_text()


def test_the_command_writes_three_files_and_says_what_is_left_out(command, here: Path) -> None:
    list(write_table2a(Path("runs")))
    code, out, err = command(main, "runs", "table=table2a", "out=mine")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in Path("mine").iterdir()) == sorted(FILES)
    assert "table2a: Pairwise functions: one block in C2D R50: 4 of 5 rows, 8 runs" in out
    assert "not counted: runs/failed: failed: UserError: no space" in out
    assert "not counted: runs/lost: says it is running, and its process is gone" in out


def test_the_numbers_of_the_csv(here: Path) -> None:
    list(write_table2a(Path("runs")))
    report()
    rows = {(row["row"], row["metric"]): row for row in records()}
    assert len(rows) == 10
    assert rows["baseline", "val/top1"]["published"] == "71.8"
    assert float(rows["baseline", "val/top1"]["mean"]) == pytest.approx(100 * sum(TABLE2A["table2a_baseline"]) / 3)
    assert rows["Gaussian", "val/top5"]["over"] == "3 seeds"
    assert rows["Gaussian, embedded", "val/top1"]["standard_deviation"] == ""
    assert {row["mean"] for row in (rows["dot product", "val/top1"], rows["concatenation", "val/top1"])} == {""}


def test_a_table_that_is_named_comes_without_a_run(here: Path) -> None:
    write_run(Path("runs/a"), "mine", metrics={"val/top1": 0.5})
    text = report("table6")
    assert "Runs of no table" not in text
    assert "| NL +4 in the head |  |  |  | 66.0 | 87.1 | 71.7 |  |  |  |  |  |" in text


def test_conditions_are_not_put_together(here: Path) -> None:
    """Size, what was typed and the protocol of the test each make a table of their own; machine settings do not."""
    for name, value, options in (
        ("a", 0.1, {}),
        ("b", 0.2, {"size": "demo"}),
        ("c", 0.3, {"typed": {"optim.optimizer.lr": 0.5}}),
        ("d", 0.4, {"typed": {"data.num_workers": 3, "trainer.devices": 2}, "seed": 1}),
    ):
        run = write_run(Path("runs") / name, "table2a_gaussian", metrics={"val/top1": value, "val/top5": 1}, **options)
    write_test(Path("runs/e"), run, "30view", {"val/top1": 0.6, "val/top5": 1})
    text = report()
    cells = [line for line in text.splitlines() if line.startswith("| Gaussian |")]
    assert [line.split(" | ")[1] for line in cells] == ["25.0 ± 21.2", "20.0", "30.0", "60.0"]
    titles = [line.partition("C2D R50")[2] for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["", " (size=demo)", " (optim.optimizer.lr=0.5)", " (protocol=30view)"]
    assert text.count("these runs are of size=demo: the published figures are of the full size") == 1


def test_a_baseline_is_trained_once(here: Path) -> None:
    """Runs count in every table that has their recipe, once a run of that table is there."""
    write_run(Path("runs/a"), "kinetics_c2d", metrics={"val/top1": 0.7, "val/top5": 0.9})
    assert "Runs of no table" in report()
    write_run(Path("runs/b"), "table2b_res2", metrics={"val/top1": 0.75, "val/top5": 0.9})
    text = report()
    assert "| baseline | 70.0 | 90.0 | 71.8 | 89.7 |" in text
    assert "| res2 | 75.0 | 90.0 | 72.7 | 90.3 | +5.0, 1 seed |" in text
    assert text.count("## ") == 1


def test_an_evaluation_stands_for_its_run(here: Path) -> None:
    """Its figures and its scores, not its seconds; and the difference is over the videos of both."""
    found = {}
    for name, right in (("baseline", 0.5), ("gaussian", 0.8)):
        for seed in range(2):
            run = write_run(Path("runs") / f"{name}{seed}", f"table2a_{name}", seed=seed, metrics={"val/top1": 0.01})
            scores = found[name, seed] = predictions(seed, right)
            top1 = float((scores.scores.argmax(1) == scores.targets).mean())
            test = write_test(Path("runs") / f"test {name}{seed}", run, "center", {"val/top1": top1, "val/top5": 1})
            scores.save(test / FILE)
    text = report("table2a")
    row = next(row for row in records() if (row["row"], row["metric"]) == ("Gaussian", "val/top1"))
    assert row["over"] == "40 videos"
    accuracy = {key: (s.scores.argmax(1) == s.targets).astype(float) for key, s in found.items()}
    gain = sum(accuracy["gaussian", s] - accuracy["baseline", s] for s in range(2)) / 2
    assert float(row["difference"]) == pytest.approx(100 * gain.mean())
    assert float(row["low"]) < 100 * gain.mean() < float(row["high"])
    assert row["seconds"] == "100"
    assert "0.01" not in text
    predictions(0, 0.8, videos=39).save(Path("runs/test gaussian0") / FILE)
    assert "Gaussian: compared over seeds, not over videos: " in report("table2a")


def test_an_evaluation_whose_training_is_elsewhere_stands_for_itself(here: Path) -> None:
    run = write_run(Path("elsewhere"), "table2a_gaussian", metrics={})
    write_test(Path("runs/a"), run, "center", {"val/top1": 0.5, "val/top5": 0.6})
    row = next(line for line in report().splitlines() if line.startswith("| Gaussian |"))
    assert row == "| Gaussian | 50.0 | 60.0 | 72.5 | 90.2 |  | 1 |  |  |  |"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no folder of runs is given"),
        (["nowhere"], "nowhere: there is no such folder"),
        (["runs", "tabel=table2a"], "tabel=table2a: neither a folder nor a setting of this command; nearest: table"),
        (["runs", "table=table2"], "table=table2: there is no such table; nearest: "),
        (["runs", "table="], "table=: nothing is given"),
        (["empty"], "no run in empty: a run's folder has a summary.json"),
        (["runs", "out=file"], "out=file: cannot be made"),
        (
            ["entity/project"],
            "there is no such folder; give run folders, folders that hold some, or wandb:ENTITY/PROJECT",
        ),
        (["wandb:nlnet"], "wandb:nlnet: a project of W&B is typed as wandb:ENTITY/PROJECT"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, command, here: Path) -> None:
    write_run(Path("runs/a"), "table2a_gaussian", metrics={"val/top1": 0.5})
    Path("empty").mkdir()
    Path("file").touch()
    code, out, err = command(main, *words)
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_sweeps_point_is_a_folder_though_it_looks_like_a_setting(command, here: Path) -> None:
    write_run(Path("experiment=table2a_gaussian,seed=0"), "table2a_gaussian", metrics={"val/top1": 0.5, "val/top5": 1})
    code, out, _ = command(main, "experiment=table2a_gaussian,seed=0", "out=out")
    assert code == 0
    assert "1 of 5 rows, 1 runs" in out


@pytest.mark.parametrize("key", ["status", "experiment", "size", "seed", "monitor", "metrics", "seconds", "parameters"])
@pytest.mark.parametrize("value", [None, True, -1, 10**400, [], {"a": []}, "x\n| y |", 1e300])
def test_no_value_of_a_record_ends_a_report(key: str, value: object, here: Path) -> None:
    """Whatever a stranger's folder says: a table, with the other runs in it."""
    write_run(Path("runs/good"), "table2a_gaussian", metrics={"val/top1": 0.5, "val/top5": 0.6}, written=WHEN)
    record = {"metrics": {"val/top1": 0.7, "val/top5": 0.6}} | {key: value}
    write_run(Path("runs/other"), record.pop("experiment", "table2a_baseline"), **record)  # type: ignore[arg-type]
    text = report("table2a")
    assert "| Gaussian | 50.0 | 60.0 |" in text
    assert "\n| y |" not in text


@pytest.mark.parametrize("value", [None, 5, "a", {}, ["x" * 10000], {"name": []}])
@pytest.mark.parametrize("key", ["typed", "protocol", "ckpt_path", "size"])
def test_no_setting_ends_a_report(key: str, value: object, here: Path) -> None:
    run = write_run(Path("runs/good"), "table2a_gaussian", metrics={"val/top1": 0.5, "val/top5": 0.6})
    (run / "config.yaml").write_text(json.dumps({"typed": ["size"], "protocol": {"name": "center"}} | {key: value}))
    assert "| Gaussian | 50.0 | 60.0 |" in report("table2a")
