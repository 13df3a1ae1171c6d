"""The report of a study, from run directories written by hand."""

import csv
import json
import math

import matplotlib.image
import numpy as np
import pytest

from rlvr_jax.analysis.read_runs import find_runs
from rlvr_jax.analysis.report import write_report

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
FIREBRICK = np.array([178, 34, 34]) / 255  # the colour of "unresolved"
NOISE = [{"gns/trace_cov": 16.0, "gns/grad_sq": 1.0}] * 3


def make_run(root, *, point, split=(8, 4), seed=0, accuracies=(0.2, 0.4, 0.8), noise=(), status="finished", **config):
    """A run of 2 updates per step, evaluated every 2 updates; one metrics row per evaluation but the first."""
    n_prompts, n_rollouts = split
    folder = root / point
    folder.mkdir(parents=True)
    config = {
        "study": "study", "point": "", "seed": seed, "batch.n_prompts": n_prompts, "batch.n_rollouts": n_rollouts,
        "task.name": "digits", "eval.target_metric": "pass@1", "eval.targets": [0.6], "eval.k": [1, 4],
        "eval.n_problems": 64, "eval.every_updates": 2, "n_updates": 4,
    } | config  # fmt: skip
    plan = {"rollouts_per_step": n_prompts * n_rollouts, "updates_per_step": 2}
    run = {"status": status, "study": "study", "point": point, "config": config, "plan": plan}
    (folder / "run.json").write_text(json.dumps(run))

    def counters(update):
        return {"update": update, "rollouts": update // 2 * n_prompts * n_rollouts, "seconds": 1.5 * update}

    name = f"eval/{config['task.name']}"
    evals = [
        counters(2 * i) | {f"{name}/greedy": a + 0.05, f"{name}/pass@1": a, f"{name}/pass@4": a + 0.1}
        for i, a in enumerate(accuracies)
    ]
    noise = [*noise, *[{}] * len(accuracies)]
    metrics = [counters(2 * i) | {"loss/total": 0.5 * i} | noise[i - 1] for i in range(1, len(accuracies))]
    (folder / "evals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evals))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return folder


def make_point(root, *, split, finals, **more):
    """One run per seed, from 0.2 straight to its final accuracy."""
    for seed, final in enumerate(finals):
        name = f"np{split[0]}_nr{split[1]}_s{seed}"
        make_run(root, point=name, split=split, seed=seed, accuracies=(0.2, final, final), **more)


def report(tmp_path):
    return write_report(find_runs([tmp_path / "runs"]), tmp_path / "out")


def table_of(text):
    """Cells by row name and column name."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels_of(path):
    assert path.read_bytes().startswith(PNG_MAGIC)
    return matplotlib.image.imread(path)[:, :, :3].reshape(-1, 3)


def has_colour(pixels, colour):
    return bool((np.abs(pixels - colour).max(axis=1) < 0.02).any())


def test_one_run_worked_by_hand(tmp_path):
    # 0.4 after 2 updates and 0.8 after 4: 0.6 after 3, which are 1.5 steps of 32 rollouts
    make_run(tmp_path / "runs", point="only")
    assert table_of(report(tmp_path)) == {
        "8 x 4": {
            "prompts x rollouts": "8 x 4",
            "seeds": "1",
            "start": "0.200",
            "updates to 0.6": "3",
            "rollouts to 0.6": "48",
            "final greedy": "0.850",
            "final pass@1": "0.800",
            "final pass@4": "0.900",
            "noise-to-signal": "not measured",
        }
    }


def test_seeds_are_shown_as_mean_and_spread(tmp_path):
    # finals 0.7 and 0.9: mean 0.8, standard deviation 0.1414; 0.6 is met after 2 (0.4 / 0.5) = 1.6
    # and 2 (0.4 / 0.7) = 1.14 updates: mean 1.37, standard deviation 0.32; 1.37 updates are 0.69 steps of 32 rollouts
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.7, 0.9))
    row = table_of(report(tmp_path))["8 x 4"]
    assert (row["seeds"], row["final pass@1"]) == ("2", "0.800 ± 0.141")
    assert (row["updates to 0.6"], row["rollouts to 0.6"]) == ("1 ± 0", "22")


@pytest.mark.parametrize(
    ("finals", "updates", "rollouts"),
    [((0.6, 0.6), "2 ± 0", "32"), ((0.6, 0.5), "2 (1 of 2)", "32 (1 of 2)"), ((0.5, 0.5), "> 4", "-")],
)
def test_a_target_that_seeds_miss_is_shown_as_such(tmp_path, finals, updates, rollouts):
    make_point(tmp_path / "runs", split=(8, 4), finals=finals)
    row = table_of(report(tmp_path))["8 x 4"]
    assert (row["updates to 0.6"], row["rollouts to 0.6"]) == (updates, rollouts)


def test_points_are_listed_from_many_prompts_to_few(tmp_path):
    for split in ((8, 4), (32, 1), (2, 16)):
        make_point(tmp_path / "runs", split=split, finals=(0.7,))
    assert list(table_of(report(tmp_path))) == ["32 x 1", "8 x 4", "2 x 16"]


def test_an_order_beyond_seed_spread_is_claimed(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.90, 0.91, 0.92))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.50, 0.51, 0.52))
    text = report(tmp_path)
    assert text.count("1 of 1 pairs differ beyond seed spread") == 2  # by speed and by final accuracy
    # difference .4; two groups: t(97.5%, 4 degrees) = 2.776 times .01 sqrt(2 / 3) = .0227
    assert "- 8 x 4 above 4 x 8 by 0.400 [0.377, 0.423]" in text
    assert "4 x 8 above 8 x 4" not in text


def test_an_order_within_seed_spread_is_not_claimed(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.5, 0.7, 0.9))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.4, 0.6, 0.8))
    text = report(tmp_path)
    assert text.count("0 of 1 pairs differ beyond seed spread") == 2
    assert " above " not in text


def test_no_order_is_claimed_from_one_seed(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.9,))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.3,))
    text = report(tmp_path)
    assert text.count("no order is claimed") == 2
    assert " above " not in text


def test_speed_and_final_accuracy_are_ordered_apart(tmp_path):
    for seed, wobble in enumerate((0.0, 0.01, 0.02)):  # both end alike, one gets there sooner
        fast, slow = (0.2, 0.8 + wobble, 0.8 + wobble), (0.2, 0.3 + wobble, 0.8 + wobble)
        make_run(tmp_path / "runs", point=f"fast{seed}", split=(8, 4), seed=seed, accuracies=fast)
        make_run(tmp_path / "runs", point=f"slow{seed}", split=(4, 8), seed=seed, accuracies=slow)
    speed, final = report(tmp_path).split("Order by final accuracy")
    assert "8 x 4 above 4 x 8 by 0.250" in speed  # means over the evaluations after the start: .8 and .55
    assert "0 of 1 pairs" in final


def test_the_final_accuracy_is_the_last_and_not_the_best(tmp_path):
    for seed, wobble in enumerate((0.0, 0.01, 0.02)):  # one point ends where it peaks, the other falls back
        make_run(tmp_path / "runs", point=f"a{seed}", split=(8, 4), seed=seed, accuracies=(0.2, 0.5, 0.7 + wobble))
        make_run(tmp_path / "runs", point=f"b{seed}", split=(4, 8), seed=seed, accuracies=(0.2, 0.9, 0.4 + wobble))
    text = report(tmp_path)
    assert "- 8 x 4 above 4 x 8 by 0.300" in text.split("Order by final accuracy")[1]
    assert table_of(text)["4 x 8"]["final pass@1"] == "0.410 ± 0.010"


def test_runs_that_are_not_finished_are_named(tmp_path):
    make_run(tmp_path / "runs", point="done", seed=0)
    make_run(tmp_path / "runs", point="cut_short", seed=1, status="stopped")
    make_run(tmp_path / "runs", point="just_begun", seed=2, status="running", accuracies=(0.2,))
    text = report(tmp_path)
    assert "Not finished, and left out: cut_short, just_begun." in text
    assert table_of(text)["8 x 4"]["seeds"] == "1"


def test_runs_that_are_not_finished_are_left_out_of_the_orders(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.90, 0.91, 0.92))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.50, 0.51, 0.52))
    for seed, final in ((3, 0.1), (4, 0.9)):  # with these two the spread would hide the order
        make_run(tmp_path / "runs", point=f"cut{seed}", seed=seed, accuracies=(0.2, final, final), status="stopped")
    text = report(tmp_path)
    assert "- 8 x 4 above 4 x 8 by 0.400 [0.377, 0.423]" in text  # as without them
    assert table_of(text)["8 x 4"]["seeds"] == "3"


def test_a_point_without_two_finished_seeds_has_no_order(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.90, 0.91))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.50,))
    make_run(tmp_path / "runs", point="cut", split=(4, 8), seed=1, accuracies=(0.2, 0.5, 0.5), status="running")
    text = report(tmp_path)
    assert text.count("no order is claimed") == 2
    assert " above " not in text


@pytest.mark.parametrize("name", ["greedy", "pass@1", "pass@4"])
def test_a_null_in_the_last_evaluation_is_no_number(tmp_path, name):
    folder = make_run(tmp_path / "runs", point="p")
    *rows, last = (folder / "evals.jsonl").read_text().splitlines()
    last = json.loads(last) | {f"eval/digits/{name}": None}
    (folder / "evals.jsonl").write_text("\n".join([*rows, json.dumps(last)]) + "\n")
    # the metric of the targets falls back on the evaluation before, the others are unknown
    expected = "0.400" if name == "pass@1" else "unknown"
    assert table_of(report(tmp_path))["8 x 4"][f"final {name}"] == expected


def test_a_category_does_not_pass_for_the_whole(tmp_path):
    folder = make_run(tmp_path / "runs", point="p")
    before = table_of(report(tmp_path))["8 x 4"]
    rows = [json.loads(line) for line in (folder / "evals.jsonl").read_text().splitlines()]
    of_category = {
        "eval/digits/addition/pass@1": 0.99,
        "eval/digits/addition/greedy": 0.98,
        "eval/digits/addition/n": 3,
    }
    (folder / "evals.jsonl").write_text("".join(json.dumps(row | of_category) + "\n" for row in rows))
    assert table_of(report(tmp_path))["8 x 4"] == before


def test_a_start_that_was_not_evaluated_is_shown_as_unknown(tmp_path):
    folder = make_run(tmp_path / "runs", point="p")
    rows = (folder / "evals.jsonl").read_text().splitlines(keepends=True)
    (folder / "evals.jsonl").write_text("".join(rows[1:]))
    assert table_of(report(tmp_path))["8 x 4"]["start"] == "-"


def test_two_folders_of_one_point_and_seed_are_refused_by_name(tmp_path):
    make_run(tmp_path / "runs", point="first", seed=1)
    make_run(tmp_path / "runs", point="again", seed=1)
    with pytest.raises(ValueError, match=r"again and .*first hold the same point and seed; report one of them"):
        report(tmp_path)


def test_a_finished_study_names_no_unfinished_run(tmp_path):
    make_run(tmp_path / "runs", point="done")
    assert "Not finished" not in report(tmp_path)


def test_a_last_line_cut_in_two_is_as_if_it_had_not_been_written(tmp_path):
    folder = make_run(tmp_path / "runs", point="p", accuracies=(0.2, 0.4, 0.8))
    for name in ("evals.jsonl", "metrics.jsonl"):
        path = folder / name
        path.write_text(path.read_text()[:-25])
    row = table_of(report(tmp_path))["8 x 4"]
    assert (row["final pass@1"], row["updates to 0.6"]) == ("0.400", "> 2")
    assert len(read_csv(tmp_path / "out" / "combined_training_metrics.csv")) == 1


@pytest.mark.parametrize(
    ("noise", "cell"),
    [
        ((), "not measured"),
        ([{"gns/trace_cov": None, "gns/grad_sq": None}] * 3, "not measured"),
        (NOISE, "2.00 [2.00, 2.00]"),  # 16 / (8 prompts * 1)
        ([*NOISE, {"gns/trace_cov": None, "gns/grad_sq": None}], "2.00 [2.00, 2.00]"),
        (NOISE[:2], "unresolved"),  # two measurements have no interval
        ([{"gns/trace_cov": 16.0, "gns/grad_sq": -1.0}] * 3, "unresolved"),
    ],
)
def test_noise_is_a_ratio_of_averages_or_nothing(tmp_path, noise, cell):
    make_run(tmp_path / "runs", point="p", accuracies=(0.2, 0.4, 0.4, 0.4, 0.8), noise=noise)
    assert table_of(report(tmp_path))["8 x 4"]["noise-to-signal"] == cell


def test_noise_is_averaged_over_the_measurements_of_all_seeds(tmp_path):
    # one measurement each of 8, 16, 24 over 1: mean 16 / (8 prompts * 1) = 2; one seed alone would be unresolved
    for seed, trace_cov in enumerate((8.0, 16.0, 24.0)):
        noise = [{"gns/trace_cov": trace_cov, "gns/grad_sq": 1.0}]
        make_run(tmp_path / "runs", point=f"s{seed}", seed=seed, noise=noise)
    assert table_of(report(tmp_path))["8 x 4"]["noise-to-signal"].startswith("2.00 [0.56, ")  # as in test_seeds


def test_the_text_is_written_with_its_pictures(tmp_path):
    make_run(tmp_path / "runs", point="p")
    text = report(tmp_path)
    written = (tmp_path / "out" / "comprehensive_summary.md").read_text("utf-8")
    assert text.startswith("# study\n")
    assert written.startswith(text)
    for picture in ("runs_comparison.png", "gns_comparison.png"):
        assert f"]({picture})" in written.removeprefix(text)
        assert (tmp_path / "out" / picture).is_file()


def test_the_curves_have_a_line_for_every_point(tmp_path):
    path = tmp_path / "out" / "runs_comparison.png"
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.9, 0.8))
    report(tmp_path)
    darkest_viridis = np.array([0.267, 0.005, 0.329])  # of the first point
    one_line = pixels_of(path)
    assert has_colour(one_line, darkest_viridis)
    assert has_colour(one_line, np.ones(3))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.5, 0.4))
    report(tmp_path)
    last_viridis = np.array([0.741, 0.873, 0.150])  # at 0.9 of the map
    assert has_colour(pixels_of(path), last_viridis)
    assert not has_colour(one_line, last_viridis)


def test_the_noise_picture_marks_what_is_unresolved(tmp_path):
    path = tmp_path / "out" / "gns_comparison.png"
    make_run(tmp_path / "runs", point="resolved", split=(8, 4), accuracies=(0.2, 0.4, 0.4, 0.8), noise=NOISE)
    report(tmp_path)
    assert has_colour(pixels_of(path), np.zeros(3))  # its dot
    assert not has_colour(pixels_of(path), FIREBRICK)
    make_run(tmp_path / "runs", point="unresolved", split=(4, 8), noise=NOISE[:1])
    report(tmp_path)
    assert has_colour(pixels_of(path), FIREBRICK)


def test_the_table_of_runs_reads_back(tmp_path):
    make_run(tmp_path / "runs", point="a", seed=0)
    make_run(tmp_path / "runs", point="b", seed=1, accuracies=(0.2, 0.3, 0.4))
    report(tmp_path)
    a, b = read_csv(tmp_path / "out" / "summary_metrics.csv")
    assert (a["study"], a["point"], a["status"], a["seed"]) == ("study", "a", "finished", "0")
    assert (b["point"], b["status"], b["updates_to_0.6"]) == ("b", "finished", "")  # never got there
    expected = {
        "n_prompts": 8, "n_rollouts": 4, "updates": 4, "rollouts": 64, "seconds": 6.0, "start_accuracy": 0.2,
        "mean_accuracy": 0.45, "updates_to_0.6": 3.0, "final_greedy": 0.85, "final_pass@1": 0.8, "final_pass@4": 0.9,
    }  # fmt: skip
    for name, value in expected.items():
        assert math.isclose(float(a[name]), value), name


def test_the_table_of_metrics_has_every_row_of_every_run(tmp_path):
    make_run(tmp_path / "runs", point="a", seed=0)
    make_run(tmp_path / "runs", point="b", seed=1, noise=[{"gns/trace_cov": None, "gns/grad_sq": 1.5}])
    report(tmp_path)
    rows = read_csv(tmp_path / "out" / "combined_training_metrics.csv")
    assert [(row["point"], row["update"], row["loss/total"]) for row in rows] == [
        ("a", "2", "0.5"),
        ("a", "4", "1.0"),
        ("b", "2", "0.5"),
        ("b", "4", "1.0"),
    ]
    assert [row["gns/grad_sq"] for row in rows] == ["", "", "1.5", ""]  # a column of some rows is empty in the others
    assert [row["gns/trace_cov"] for row in rows] == [""] * 4  # and so is null


def test_runs_that_differ_beyond_their_seed_are_points_of_their_own(tmp_path):
    make_run(tmp_path / "runs", point="small_step", **{"optimizer.peak_lr": 1e-4})
    make_run(tmp_path / "runs", point="large_step", **{"optimizer.peak_lr": 1e-3})
    names = {f"8 x 4 ({tmp_path / 'runs' / point})" for point in ("small_step", "large_step")}
    assert set(table_of(report(tmp_path))) == names


@pytest.mark.parametrize(
    "other",
    [
        {"task.name": "arithmetic"},
        {"eval.target_metric": "greedy"},
        {"eval.targets": [0.7]},
        {"eval.k": [1]},
        {"n_updates": 6},
    ],
)
def test_runs_that_cannot_share_a_table_are_refused(tmp_path, other):
    make_run(tmp_path / "runs", point="a")
    make_run(tmp_path / "runs", point="b", split=(4, 8), **other)
    with pytest.raises(ValueError, match=f"the runs differ in {next(iter(other))} .*report them apart"):
        report(tmp_path)


def test_a_study_without_any_result_is_refused(tmp_path):
    make_run(tmp_path / "runs", point="a", accuracies=(0.2,), status="running")
    with pytest.raises(ValueError, match=r"none of the 1 run\(s\) is finished yet"):
        report(tmp_path)
