"""bin/fit as a person runs it: on the published table, on small tables, and misused."""

import csv
import importlib.machinery
import importlib.util
import json
import re

import numpy as np
import pytest
import scipy.optimize
from run_command import ROOT, run

PUBLISHED = ROOT / "docs" / "published_table.csv"
SMALL = "run,n_prompts,n_rollouts,target,steps\n" + "".join(
    f"r{p}{seed},{p},8,0.5,{round(100 * (1 + 1000 / (8 * p)) * (0.97, 1.04)[seed])}\n"
    for p in (16, 32, 64, 128, 256, 512)
    for seed in (0, 1)
)


def main(*arguments):
    """bin/fit in this process, with flags of its own."""
    loader = importlib.machinery.SourceFileLoader("fit_command", str(ROOT / "bin" / "fit"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("fit_command", loader))
    loader.exec_module(module)
    return module.main(["bin/fit", *(str(argument) for argument in arguments)])


def printed_points():
    """(target, B, printed steps) of what was reached, read without any code of ours."""
    with PUBLISHED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["steps"]]
    return [(float(r["target"]), int(r["n_prompts"]) * int(r["n_rollouts"]), float(r["steps"])) for r in rows]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What bin/fit said of the published table, in a process that cannot import jax; and what it wrote."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "jax.py").write_text("raise ImportError('no jax here')\n")
    arguments = ("--out=law", "--residuals=absolute")
    code, said = run(folder, "fit", str(PUBLISHED), *arguments, PYTHONPATH=str(folder))
    assert code == 0, said
    return said, folder / "law"


def test_the_published_table_is_the_table_of_the_paper():
    steps = {}
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            size = int(row["n_prompts"]) * int(row["n_rollouts"]), int(row["minibatch_prompts"]) * 8
            steps.setdefault(size, []).append(row["steps"])
            assert row["eval_every"] == "25"
    assert steps == {
        (256, 256): ["50", "175", "325", "825", "2400", ""],
        (512, 512): ["25", "100", "175", "475", "1800", "3925"],
        (1024, 1024): ["25", "50", "150", "525", "975", "2750"],
        (2048, 2048): ["25", "50", "100", "200", "625", "975"],
        (4096, 2048): ["25", "25", "75", "125", "325", "925"],
        (8192, 2048): ["25", "25", "50", "75", "225", "450"],
        (8192, 8192): ["25", "50", "75", "175", "325", ""],
        (65536, 2048): ["25", "25", "25", "50", "100", ""],
    }


def test_absolute_residuals_are_those_of_unweighted_least_squares(published):
    records = {record["target"]: record for record in json.loads((published[1] / "law.json").read_text())}
    assert list(records) == [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, None]
    points = printed_points()
    for target, record in records.items():
        if target is None:
            continue
        B, S = np.array([point[1:] for point in points if point[0] == target]).T
        level, slope = np.linalg.lstsq(np.stack([np.ones_like(B), 1 / B], axis=1), S, rcond=None)[0]
        assert record["s_min"] == pytest.approx(level, rel=1e-4)
        assert record["b_noise"] == pytest.approx(slope / level, rel=1e-4)
        found = [residual for residual in record["residuals"] if residual is not None]
        np.testing.assert_allclose(found, S - (level + slope / B), atol=1e-3 * S.max())
        assert len(record["residuals"]) == 8  # null where it was not reached


def test_jointly_absolute_residuals_are_least_squares_with_one_scale(published):
    (joint,) = (r for r in json.loads((published[1] / "law.json").read_text()) if r["target"] is None)
    targets = sorted({point[0] for point in printed_points()})

    def squares(log_scale):
        total = 0.0
        for target in targets:
            B, S = np.array([point[1:] for point in printed_points() if point[0] == target]).T
            shape = 1 + np.exp(log_scale) / B
            total += np.sum((S - shape * (shape @ S) / (shape @ shape)) ** 2)
        return total

    best = scipy.optimize.minimize_scalar(squares, bounds=(np.log(10), np.log(1e6)), method="bounded")
    assert joint["b_noise"] == pytest.approx(np.exp(best.x), rel=2e-3)
    assert joint["s_min"] is None
    assert list(joint["s_min_by_target"]) == ["0.4", "0.45", "0.5", "0.55", "0.6", "0.65"]
    assert len(joint["points"]) == 48


def test_the_text_shows_both_residuals_what_is_unresolved_and_what_hangs_on_the_unit(published):
    said, folder = published
    text = (folder / "law.md").read_text()
    assert text.split("\n\n![")[0] in said
    assert "written: law/law.md, law/law.json, law/law.png" in said.replace(str(folder), "law")
    assert "a printed 75 means 50-75, and 25 means at most 25" in text
    assert "B8192 > 325 steps to 0.65" in text
    for target in ("0.4", "0.45", "0.5", "0.55", "0.6", "0.65", "all"):
        assert len([line for line in text.splitlines() if line.startswith(f"| {target} ")]) >= 2
    assert "Unresolved, and why:" in text
    assert "What depends on the kind of residuals:" in text
    one_line = " ".join(text.split())
    assert "take 2, 4, 32 updates per step" in one_line
    assert "the same collection of 1024 x 8, steps to 0.6: 325 at 1 per step, 225 at 4 per step" in one_line
    # 625 x 1, 325 x 2, 225 x 4, 100 x 32
    updates = "625 at 1 per step, 650 at 2 per step, 900 at 4 per step, 3200 at 32 per step"
    assert f"the same minibatch of 256 x 8, updates to 0.6: {updates}" in one_line
    assert "| B65536_mini2048 | 8192 x 8 |" in text
    assert (folder / "law.png").read_bytes().startswith(b"\x89PNG")


def test_the_committed_report_is_what_the_command_says(published):
    def words_and_numbers(text):
        text = " ".join(text.replace("law.png", "published_table.png").split())
        numbers = r"-?\d[\d.]*"
        return re.sub("-+", "-", re.sub(numbers, "#", text)), [float(n.rstrip(".")) for n in re.findall(numbers, text)]

    committed = (ROOT / "docs" / "published_table.md").read_text()
    said, numbers = words_and_numbers((published[1] / "law.md").read_text())
    found, committed_numbers = words_and_numbers(committed[committed.index("# The law of") :])
    assert found == said
    assert committed_numbers == pytest.approx(numbers, rel=0.05, abs=1)  # other versions of scipy round otherwise


def test_json_alone_is_all_that_is_printed(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(SMALL)
    assert main(tmp_path / "t.csv", "--json", "--eval_every=1") == 0
    said = capsys.readouterr()
    (record,) = json.loads(said.out)
    assert said.err == ""
    assert (record["target"], record["unit"], record["residuals_kind"]) == (0.5, "step", "relative")
    assert record["resolved"]
    assert record["b_noise"] == pytest.approx(1000, rel=0.15)  # the table is made from 100 (1 + 1000 / B)
    assert record["ci"][0] < 1000 < record["ci"][1]
    assert record["s_min"] == pytest.approx(100, rel=0.1)
    assert [point["run"] for point in record["points"]] == [line.split(",")[0] for line in SMALL.splitlines()[1:]]


def test_files_are_written_where_asked_and_a_fault_costs_no_result(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(SMALL)
    assert main(tmp_path / "t.csv", f"--json={tmp_path}/law.json", f"--figure={tmp_path}/law.png") == 0
    assert "# The law of t.csv, in steps" in capsys.readouterr().out
    assert json.loads((tmp_path / "law.json").read_text())[0]["resolved"]
    assert (tmp_path / "law.png").read_bytes().startswith(b"\x89PNG")
    assert main(tmp_path / "t.csv", f"--json={tmp_path}/nowhere/law.json") == 1
    said = capsys.readouterr()
    assert "# The law of t.csv, in steps" in said.out
    assert "nowhere/law.json" in said.err


def test_in_updates_the_batch_is_the_minibatch(tmp_path, capsys):
    header, *lines = SMALL.splitlines()
    rows = [header + ",minibatch_prompts", *(f"{line},{int(line.split(',')[1]) // 2}" for line in lines)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    assert main(tmp_path / "t.csv", "--json", "--unit=update") == 0
    (in_updates,) = json.loads(capsys.readouterr().out)
    assert main(tmp_path / "t.csv", "--json", "--unit=step") == 0
    (in_steps,) = json.loads(capsys.readouterr().out)
    # every run takes 2 updates per step, so times double and batches halve
    assert in_updates["s_min"] == pytest.approx(2 * in_steps["s_min"], rel=1e-3)
    assert in_updates["b_noise"] == pytest.approx(in_steps["b_noise"] / 2, rel=1e-3)


def test_one_batch_size_is_unresolved_and_no_failure(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("\n".join(SMALL.splitlines()[:3]))
    assert main(tmp_path / "t.csv") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "only 1 size reached the target" in said
    assert main(tmp_path / "t.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["resolved"] is False


def test_a_table_in_which_nothing_was_reached_is_unresolved_and_says_what_to_give(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("run,n_prompts,n_rollouts,target,steps\na,32,8,0.5,\nb,64,8,0.5,\n")
    assert main(tmp_path / "t.csv", f"--out={tmp_path}/law") == 0
    assert "Used by no fit: a, b reached no target" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "law" / "law.json").read_text())
    assert (record["resolved"], record["n_runs"], record["n_reached"], record["n_left_out"]) == (False, 2, 0, 2)


def test_blanks_count_among_the_runs_and_the_records_say_which_fits_use_them(tmp_path, capsys):
    """r160 and r161 are blank: beyond the last step that is printed, 510 of r321 (100 (1 + 1000/256) 1.04)."""
    lines = [line if not line.startswith("r16") else line[: line.rindex(",") + 1] for line in SMALL.splitlines()]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    left_out: dict = {}
    for kind in ("relative", "absolute"):
        assert main(tmp_path / "t.csv", "--json", f"--residuals={kind}") == 0
        (record,) = json.loads(capsys.readouterr().out)
        assert (record["n_runs"], record["n_reached"], record["n_points"]) == (12, 10, 12)
        left_out[kind] = record["n_left_out"], record["lack_of_fit_p"] is None
        assert [point["after"] for point in record["points"] if point["steps"] is None] == [510, 510]
    assert left_out == {"relative": (0, False), "absolute": (2, True)}
    assert main(tmp_path / "t.csv", "--json", "--max_steps=700") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert [point["after"] for point in record["points"] if point["steps"] is None] == [700, 700]
    assert main(tmp_path / "t.csv") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "12 run(s), 6 batch size(s) 128 to 4096" in said
    assert "10 of 12" in said


@pytest.mark.parametrize(
    ("table", "flags", "message"),
    [
        (SMALL, ["--residuals=both"], "--residuals=both is none of relative, absolute"),
        (SMALL, ["--unit=epoch"], "--unit=epoch is none of step, update"),
        (SMALL, ["--residual=absolute"], "Unknown command line flag 'residual'. Did you mean: residuals ?"),
        (SMALL, ["--confidence=90"], "confidence=90.0 is not between 0 and 1"),
        (SMALL, ["--shape=line"], "shape='line' is not one of total"),
        (SMALL, ["--eval_every=often"], "--eval_every=often"),
        (SMALL, ["--eval_every=-5"], "--eval_every=-5 is not a number of steps above 0"),
        (SMALL, ["other.csv"], "it takes one table, got"),
        (SMALL.replace("steps", "updates"), [], "lacks the column steps"),
        (SMALL, ["--max_steps=0"], "--max_steps=0 is not a number of steps above 0"),
        (SMALL, ["--figure=law.pdf"], "--figure=law.pdf is no PNG file"),
        (SMALL, ["--json="], "--json= names no file"),
    ],
)
def test_bad_input_is_one_clear_message_and_a_failing_exit(tmp_path, capsys, table, flags, message):
    (tmp_path / "t.csv").write_text(table)
    assert main(tmp_path / "t.csv", *flags) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("bin/fit: ")
    assert message in said.err
    assert len(said.err.splitlines()) == 1


def test_no_table_and_no_file_are_said(tmp_path, capsys):
    assert main() == 1
    assert "it takes one table, got none" in capsys.readouterr().err
    assert main(tmp_path / "absent.csv") == 1
    assert "absent.csv" in capsys.readouterr().err
    assert main("-h") == 0
    assert "minibatch_prompts" in capsys.readouterr().out
