"""Studies as they are found on disk: cut, empty, damaged, mixed, unfinished. Each is reported, and said."""

import json

import pytest
from written_runs import write_rows, write_run

from rlvr_jax.analysis.conclusions import conclude
from rlvr_jax.analysis.report_text import report_text
from rlvr_jax.analysis.study import read_study


def reported(*paths, **more):
    study = read_study(list(paths), **more)
    text = report_text(study, conclude(study))
    for note in study.notes:
        assert f"- {note}" in text
    return study, text


def write_points(root, splits=((32, 4), (16, 4), (8, 4)), n_seeds=2, **config):
    """From 0.2 to 0.8, the sooner the larger the batch."""
    for n_prompts, n_rollouts in splits:
        for seed in range(n_seeds):
            late = 0.3 + 0.01 * n_prompts + 0.01 * seed
            point = f"np{n_prompts}_nr{n_rollouts}_s{seed}"
            split = (n_prompts, n_rollouts)
            write_run(root, point=point, split=split, seed=seed, accuracies=(0.2, late, 0.8), **config)


def test_a_whole_study_has_nothing_to_note(tmp_path):
    write_points(tmp_path / "s", noise=[{"gns/trace_cov": 16.0, "gns/grad_sq": 1.0}])
    study = read_study([tmp_path / "s"])
    (note,) = study.notes  # the runs here take two updates per step
    assert note.startswith(
        "Several updates per collection (8 x 4: 2 updates per step; 16 x 4: 2 updates per step; 32 x 4"
    )
    assert [point.name for point in study.points] == ["32 x 4", "16 x 4", "8 x 4"]
    assert (len(study.observations), study.targets, study.groups) == (6, (0.6,), [""])


@pytest.mark.parametrize("name", ["evals.jsonl", "metrics.jsonl"])
def test_a_last_line_that_was_cut_is_left_out_and_said(tmp_path, name):
    write_points(tmp_path / "s")
    path = tmp_path / "s" / "np8_nr4_s0" / name
    path.write_text(path.read_text()[:-9])
    study, _ = reported(tmp_path / "s")
    assert f"the last line of {path} was cut and is left out." in study.notes
    if name == "evals.jsonl":
        assert [one.is_reached for one in study.observations if one.run == "np8_nr4_s0"] == [False]


@pytest.mark.parametrize("name", ["evals.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("line", ["{broken", "3", '{"no": "update"}', '{"update": null}', "[" * 10_000, "\0\0\0", ""])
def test_a_line_in_the_middle_that_cannot_be_read_is_left_out_and_said(tmp_path, name, line):
    write_points(tmp_path / "s")
    path = tmp_path / "s" / "np8_nr4_s0" / name
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *rest]) + "\n")
    study = read_study([tmp_path / "s"])
    assert [
        str(path) in note and ("no JSON" in note or "no number under update" in note) for note in study.notes
    ].count(True) == 1
    assert len(study.observations) == 6


def test_many_damaged_lines_are_counted_and_not_all_quoted(tmp_path):
    write_points(tmp_path / "s")
    path = tmp_path / "s" / "np8_nr4_s0" / "metrics.jsonl"
    path.write_text("{broken\n" * 50 + path.read_text())
    study = read_study([tmp_path / "s"])
    assert sum(str(path) in note for note in study.notes) == 4
    assert f"50 lines of {path} cannot be read and are left out." in study.notes


def test_empty_directories_are_said(tmp_path):
    write_points(tmp_path / "s")
    (tmp_path / "s" / "np64_nr4_s0").mkdir()
    (tmp_path / "t").mkdir()
    study = read_study([tmp_path / "s", tmp_path / "t"])
    assert f"{tmp_path / 's' / 'np64_nr4_s0'} holds no run.json and is left out." in study.notes
    assert f"{tmp_path / 't'} holds no run (no run.json at or below it); it is left out." in study.notes
    assert len(study.records) == 6


def test_a_report_and_a_runs_own_folders_are_not_taken_for_lost_runs(tmp_path):
    write_points(tmp_path / "s")
    for folder in ("report", "np8_nr4_s0/checkpoints/100", "np8_nr4_s0/noise"):
        (tmp_path / "s" / folder).mkdir(parents=True)
    (tmp_path / "s" / "report" / "comprehensive_summary.md").write_text("# s\n")
    assert not any("holds no" in note for note in read_study([tmp_path / "s"]).notes)


@pytest.mark.parametrize("paths", [["empty"], ["nowhere"], ["empty", "nowhere"]])
def test_no_run_at_all_is_refused_by_name(tmp_path, paths):
    (tmp_path / "empty").mkdir()
    said = {"empty": "empty holds no run", "nowhere": "nowhere does not exist"}
    with pytest.raises(FileNotFoundError, match=said[paths[0]]):
        read_study([tmp_path / path for path in paths])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (None, ""),
        (None, '{"status": "fin'),
        (None, '{"learning_rate": 0.1, "trainer": "another"}'),
        (None, "[" * 10_000),
        ("config", []),
        ("config", {"batch.n_prompts": 8, "task.name": "digits"}),
        ("plan", None),
        ("batch.n_prompts", "8"),
        ("batch.n_prompts", 0),
        ("eval.targets", 0.6),
        ("seed", None),
    ],
)
def test_a_run_json_that_is_damaged_or_of_another_library_is_left_out_and_said(tmp_path, field, value):
    write_points(tmp_path / "s")
    path = tmp_path / "s" / "np8_nr4_s0" / "run.json"
    run = json.loads(path.read_text())
    if field in ("config", "plan"):
        run[field] = value
    elif field:
        run["config"][field] = value
    path.write_text(json.dumps(run) if field else value)
    study = read_study([tmp_path / "s"])
    assert study.notes[0].startswith(f"{path} is no run.json of this library (")
    assert study.notes[0].endswith("it is left out.")
    assert len(study.records) == 5


def test_a_study_of_damaged_runs_alone_is_refused_with_their_names(tmp_path):
    (write_run(tmp_path / "s", point="p") / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"p/run\.json is no run\.json of this library"):
        read_study([tmp_path / "s"])


def test_one_point_alone_is_reported_without_a_law(tmp_path):
    write_points(tmp_path / "s", splits=[(8, 4)])
    study, text = reported(tmp_path / "s")
    assert len(study.points) == 1
    assert "unresolved" in text
    assert "no order is claimed" in text


def test_one_run_alone_is_reported(tmp_path):
    write_points(tmp_path / "s", splits=[(8, 4)], n_seeds=1)
    assert "unresolved" in reported(tmp_path / "s")[1]


@pytest.mark.parametrize("evals", ["", None, "start"])
def test_a_run_without_an_evaluation_after_its_start_is_said(tmp_path, evals):
    write_points(tmp_path / "s")
    path = tmp_path / "s" / "np8_nr4_s0" / "evals.jsonl"
    start = path.read_text().splitlines(keepends=True)[0]
    path.unlink()
    if evals is not None:
        path.write_text(evals and start)
    study, _ = reported(tmp_path / "s")
    where = "only before training" if evals == "start" else "nowhere"
    assert f"{path.parent} was evaluated {where}: it has no accuracy to report and no target." in study.notes
    assert len(study.observations) == 5


def test_a_study_that_was_never_evaluated_still_tells_its_noise(tmp_path):
    for seed in range(3):
        noise = [{"gns/trace_cov": 16.0, "gns/grad_sq": 1.0}]
        write_run(tmp_path / "s", point=f"s{seed}", seed=seed, noise=noise)
        (tmp_path / "s" / f"s{seed}" / "evals.jsonl").unlink()
    study, text = reported(tmp_path / "s")
    assert (study.points, study.observations) == ([], [])
    assert "No run was evaluated after its start" in text


def test_missing_metrics_and_missing_noise_are_no_failure(tmp_path):
    write_points(tmp_path / "s")
    (tmp_path / "s" / "np8_nr4_s0" / "metrics.jsonl").unlink()
    study, text = reported(tmp_path / "s")
    assert len(study.observations) == 6
    assert "not measured" in text


def test_evaluations_without_their_number_are_said(tmp_path):
    write_run(tmp_path / "s", point="p", accuracies=(0.2, None, 0.4, 0.8))
    study = read_study([tmp_path / "s"])
    assert any("1 of 4 evaluation(s)" in note and "are skipped" in note for note in study.notes)


def test_unfinished_runs_count_at_targets_and_nowhere_else(tmp_path):
    write_points(tmp_path / "s")
    write_run(tmp_path / "s", point="on", split=(64, 4), accuracies=(0.2, 0.7), status="running")
    write_run(tmp_path / "s", point="off", split=(4, 4), accuracies=(0.2, 0.3), status="stopped")
    study, text = reported(tmp_path / "s")
    reached = {one.run: one.is_reached for one in study.observations}
    assert (reached["on"], reached["off"]) == (True, False)
    assert any(
        note.startswith("Not finished: off (stopped, evaluated up to update 2), on (running") for note in study.notes
    )
    assert not any("64 x 4" in order or "4 x 4 " in order for order in conclude(study).orders)
    assert "| 64 x 4" in text


def test_two_studies_that_share_a_point_count_it_once(tmp_path):
    write_points(tmp_path / "p1", splits=[(8, 4), (16, 4)], study="p1")
    write_points(tmp_path / "p2b", splits=[(8, 4), (8, 8)], study="p2b")
    study, text = reported(tmp_path / "p1", tmp_path / "p2b")
    assert study.name == "p1, p2b"
    assert [(point.name, len(point.runs)) for point in study.points] == [("16 x 4", 2), ("8 x 4", 2), ("8 x 8", 2)]
    (said,) = [note for note in study.notes if "one run repeated, counted once" in note]
    assert said.endswith("likewise np8_nr4_s1.")
    assert len({one.run for one in study.observations}) == 6
    assert text.startswith("# p1, p2b\n")


def test_studies_of_other_controls_are_fitted_apart_in_one_report(tmp_path):
    write_points(tmp_path / "a", study="a", **{"algo.kl_coef": 0.0})
    write_points(tmp_path / "b", study="b", **{"algo.kl_coef": 0.1})
    study, _ = reported(tmp_path / "a", tmp_path / "b")
    assert study.groups == ["algo.kl_coef=0.0", "algo.kl_coef=0.1"]
    assert {law.group for law in conclude(study).laws} == set(study.groups)
    assert not any("repeated" in note for note in study.notes)


def test_studies_of_other_tasks_are_refused(tmp_path):
    write_points(tmp_path / "a", study="a")
    write_points(tmp_path / "b", study="b", **{"task.operand_max": 9})
    write_points(tmp_path / "c", study="c", **{"task.operand_max": 99})
    with pytest.raises(ValueError, match=r"the runs differ in task.operand_max \(9, 99\) and cannot share a table"):
        read_study([tmp_path / name for name in "abc"])


def test_a_run_of_an_older_version_is_read_as_that_version_did_it(tmp_path):
    write_points(tmp_path / "s", **{"optimizer.lr_rule": "constant", "eval.k": [1]})
    path = tmp_path / "s" / "np8_nr4_s0" / "run.json"
    run = json.loads(path.read_text())
    for field in ("optimizer.lr_rule", "batch.epochs_per_buffer", "eval.k"):
        del run["config"][field]
    path.write_text(json.dumps(run))
    study = read_study([tmp_path / "s"])
    assert study.groups == [""]
    assert any(
        "of an older version without batch.epochs_per_buffer, eval.k, optimizer.lr_rule" in n for n in study.notes
    )


def test_a_study_without_targets_says_so(tmp_path):
    write_points(tmp_path / "s", **{"eval.targets": []})
    assert "The runs have no eval.targets: no law can be fitted." in reported(tmp_path / "s")[0].notes


def test_smoothing_is_stated(tmp_path):
    write_points(tmp_path / "s")
    assert "the trailing mean of 3 evaluations" in reported(tmp_path / "s", smooth=3)[1]
    assert "trailing mean" not in reported(tmp_path / "s")[1]


def test_steps_and_updates_are_named(tmp_path):
    write_points(tmp_path / "s")
    assert "Time is counted in steps; a step's batch is its collection" in reported(tmp_path / "s", unit="step")[1]
    assert "Time is counted in updates; an update's batch is its minibatch" in reported(tmp_path / "s")[1]


def test_rows_of_metrics_may_grow_while_they_are_read(tmp_path):
    folder = write_run(tmp_path / "s", point="p", status="running")
    study = read_study([tmp_path / "s"])
    write_rows(folder / "metrics.jsonl", [{"update": 1, "new/column": 1.0}])
    assert "new/column" not in study.columns
    assert len(list(study.records[0].rows())) == 1


def test_runs_that_nothing_can_be_predicted_from_are_said_once_per_kind(tmp_path):
    write_points(tmp_path / "s")
    for n_prompts in (32, 16, 8):
        (tmp_path / "s" / f"np{n_prompts}_nr4_s0" / "metrics.jsonl").unlink()
    (tmp_path / "s" / "np8_nr4_s1" / "metrics.jsonl").write_text("")
    notes = [note for note in read_study([tmp_path / "s"]).notes if "nothing is predicted" in note]
    assert sorted(notes) == [
        "1 run(s) (np8_nr4_s1) have an empty metrics.jsonl: nothing is predicted from them.",
        "2 run(s) (np16_nr4_s1, np32_nr4_s1) have no measurement of gradient noise (gns/trace_cov) in metrics.jsonl: "
        "nothing is predicted from them.",
        "3 run(s) (np16_nr4_s0, np32_nr4_s0, np8_nr4_s0) have no metrics.jsonl: nothing is predicted from them.",
    ]


def test_what_many_runs_share_is_one_note(tmp_path):
    write_points(tmp_path / "s")
    for folder in (tmp_path / "s").iterdir():
        with (folder / "evals.jsonl").open("a") as out:
            out.write('{"upd')
    (cut,) = [note for note in read_study([tmp_path / "s"]).notes if "was cut" in note]
    assert cut == (
        "6 runs (np16_nr4_s0, np16_nr4_s1, np32_nr4_s0 and 3 more): the last line of evals.jsonl was cut and is "
        "left out."
    )


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e308", "-1e300"])
def test_a_number_beyond_all_measurements_is_left_out_and_its_run_is_named(tmp_path, number):
    write_points(tmp_path / "s", noise=[{"gns/trace_cov": 16.0, "gns/grad_sq": 1.0}] * 2)
    path = tmp_path / "s" / "np8_nr4_s1" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"gns/grad_sq": 1.0', f'"gns/grad_sq": {number}', 1))
    study = read_study([tmp_path / "s"])
    (said,) = [note for note in study.notes if "to compute with" in note]
    assert said == f"{path} holds no number to compute with for gns/grad_sq in 1 row(s): left out there."
    (run,) = [run for point in study.points for run in point.runs if run.record.point == "np8_nr4_s1"]
    assert run.grad_sq == [1.0]  # of two measurements


def test_runs_that_two_studies_share_are_one_note(tmp_path):
    for name in ("a", "b"):
        write_points(tmp_path / name, splits=((8, 4), (16, 4)), study=name)
    (said,) = [note for note in read_study([tmp_path]).notes if "counted once" in note]
    assert "a/np16_nr4_s0 are also in " in said
    assert said.endswith("counted once; likewise np16_nr4_s1, np8_nr4_s0, np8_nr4_s1.")
