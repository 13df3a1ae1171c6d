"""bin/report: what it writes, and one clear message where it cannot."""

import json
import runpy
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "bin" / "report"
FILES = {"comprehensive_summary.md", "summary_metrics.csv", "combined_training_metrics.csv", "report.html"}
FILES |= {"gns_comparison.png", "runs_comparison.png"}


def command(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of the command in this process: starting another takes seconds."""
    monkeypatch.setattr(sys, "argv", ["bin/report", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROGRAM), run_name="__main__")
    return ended.value.code, *capsys.readouterr()


def write_run(root, *, n_prompts, name="digits"):
    """One update per step of n_prompts x 4, evaluated at 0, 2 and 4."""
    folder = root / f"np{n_prompts}"
    folder.mkdir(parents=True)
    config = {
        "seed": 0, "batch.n_prompts": n_prompts, "batch.n_rollouts": 4, "task.name": name,
        "eval.target_metric": "pass@1", "eval.targets": [0.6], "eval.k": [1], "eval.every_updates": 2,
    }  # fmt: skip
    run = {"status": "finished", "study": "s", "point": folder.name, "config": config, "plan": {}}
    (folder / "run.json").write_text(json.dumps(run))
    rows = [{"update": 2 * i, f"eval/{name}/pass@1": 0.2 + 0.3 * i} for i in range(3)]
    (folder / "evals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_it_writes_every_file_and_says_where(tmp_path, monkeypatch, capsys):
    for n_prompts in (8, 16):
        write_run(tmp_path / "runs", n_prompts=n_prompts)
    monkeypatch.chdir(tmp_path)
    code, out, err = command(monkeypatch, capsys, "runs", "--unit=step", "--smooth=2")
    assert (code, err) == (0, "")
    assert out.startswith("# s\n")
    assert "Time is counted in steps" in out
    assert "the trailing mean of 2 evaluations" in out
    assert out.endswith("\npage: runs/report/report.html\ntext, tables and figures: runs/report\n")
    assert {file.name for file in Path("runs/report").iterdir()} >= FILES
    page = Path("runs/report/report.html").read_text("utf-8")
    assert "bin/report runs --unit=step --smooth=2" in page
    # its own report among the runs is no lost run
    assert command(monkeypatch, capsys, "runs", "--unit=step", "--smooth=2")[1] == out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "bin/report: nowhere does not exist; give a run directory, or a folder that holds some\n"),
        (["empty"], "bin/report: empty holds no run (no run.json at or below it)\n"),
        (["damaged"], "bin/report: damaged/np8/run.json is no run.json of this library"),
        (
            ["a", "b"],
            "bin/report: the runs differ in task.name (digits, sums) and cannot share a table; report them apart",
        ),
        (["a", "--out=file"], "bin/report: "),
    ],
)
def test_what_cannot_be_reported_is_one_message(tmp_path, monkeypatch, capsys, arguments, message):
    write_run(tmp_path / "a", n_prompts=8)
    write_run(tmp_path / "b", n_prompts=8, name="sums")
    (write_run(tmp_path / "damaged", n_prompts=8) / "run.json").write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    code, out, err = command(monkeypatch, capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("flag", ["--smooth=0", "--smooth=two", "--unit=epoch", "--outt=x"])
def test_a_flag_that_cannot_be_is_refused(tmp_path, monkeypatch, capsys, flag):
    write_run(tmp_path / "a", n_prompts=8)
    code, _, err = command(monkeypatch, capsys, tmp_path / "a", flag)
    assert code == 2
    assert flag.split("=")[1] in err
