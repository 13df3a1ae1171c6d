"""The report of a study, from run directories written by hand."""

import csv
import json
import math

import matplotlib.image
import numpy as np
import pytest
from written_runs import write_run

from rlvr_jax.analysis.conclusions import point_orders
from rlvr_jax.analysis.figures import gns_comparison, runs_comparison
from rlvr_jax.analysis.report import inert, write_report
from rlvr_jax.analysis.report_tables import write_metrics, write_runs
from rlvr_jax.analysis.report_text import points_text
from rlvr_jax.analysis.study import read_study

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
FIREBRICK = np.array([178, 34, 34]) / 255  # the colour of "unresolved"
NOISE = [{"gns/trace_cov": 16.0, "gns/grad_sq": 1.0}] * 3


def make_point(root, *, split, finals, **more):
    """One run per seed, from 0.2 straight to its final accuracy."""
    for seed, final in enumerate(finals):
        name = f"np{split[0]}_nr{split[1]}_s{seed}"
        write_run(root, point=name, split=split, seed=seed, accuracies=(0.2, final, final), **more)


def report(tmp_path):
    """What stands in the report of points, their order and notes: the law and pictures take seconds."""
    study = read_study([tmp_path / "runs"])
    return "\n\n".join([points_text(study), "## Order of points", *point_orders(study), "## Notes", *study.notes])


def table_of(text):
    """Cells of the table of points, by row name and column name."""
    table = text.split("## Points")[1].split("Rollouts drawn")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


def rollouts_of(text):
    return _last_cells(text.split("Rollouts drawn until the target:")[1])


def steps_of(text):
    return _last_cells(text.split("Steps (collections) until the target:")[1])


def _last_cells(text):
    """Of the first table in it, by row name."""
    lines = [line.strip("| ").split("|") for line in text.split("\n\n")[1].splitlines()[2:]]
    return {cells[0].strip(): cells[-1].strip() for cells in lines}


def orders_of(text):
    return text.split("## Order of points")[1].split("## ")[0]


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
    write_run(tmp_path / "runs", point="only")
    text = report(tmp_path)
    assert (rollouts_of(text), steps_of(text)) == ({"8 x 4": "48"}, {"8 x 4": "2"})
    assert table_of(text) == {
        "8 x 4": {
            "prompts x rollouts": "8 x 4",
            "seeds": "1 (0)",
            "start": "0.200",
            "updates to 0.6": "3",
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
    text = report(tmp_path)
    row = table_of(text)["8 x 4"]
    assert (row["seeds"], row["final pass@1"]) == ("2 (0, 1)", "0.800 ± 0.141")
    assert (row["updates to 0.6"], rollouts_of(text)["8 x 4"]) == ("1 ± 0", "22")


@pytest.mark.parametrize(
    ("finals", "updates", "rollouts"),
    [((0.6, 0.6), "2 ± 0", "32"), ((0.6, 0.5), "2 (1 of 2)", "32 (1 of 2)"), ((0.5, 0.5), "> 4", "-")],
)
def test_a_target_that_seeds_miss_is_shown_as_such(tmp_path, finals, updates, rollouts):
    make_point(tmp_path / "runs", split=(8, 4), finals=finals)
    text = report(tmp_path)
    assert (table_of(text)["8 x 4"]["updates to 0.6"], rollouts_of(text)["8 x 4"]) == (updates, rollouts)


def test_points_are_listed_from_many_prompts_to_few(tmp_path):
    for split in ((8, 4), (32, 1), (2, 16)):
        make_point(tmp_path / "runs", split=split, finals=(0.7,))
    assert list(table_of(report(tmp_path))) == ["32 x 1", "8 x 4", "2 x 16"]


def test_an_order_beyond_seed_spread_is_claimed(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.90, 0.91, 0.92))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.50, 0.51, 0.52))
    text = report(tmp_path)
    assert orders_of(text).count("1 of 1 pairs differ beyond seed spread") == 2  # by speed and by final accuracy
    # difference .4; two groups: t(97.5%, 4 degrees) = 2.776 times .01 sqrt(2 / 3) = .0227
    assert "- 8 x 4 above 4 x 8 by 0.400 [0.377, 0.423]" in text
    assert "4 x 8 above 8 x 4" not in text


def test_an_order_within_seed_spread_is_not_claimed(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.5, 0.7, 0.9))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.4, 0.6, 0.8))
    text = report(tmp_path)
    assert orders_of(text).count("0 of 1 pairs differ beyond seed spread") == 2
    assert " above " not in orders_of(text)


def test_no_order_is_claimed_from_one_seed(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.9,))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.3,))
    text = report(tmp_path)
    assert orders_of(text).count("no order is claimed") == 2
    assert " above " not in orders_of(text)


def test_speed_and_final_accuracy_are_ordered_apart(tmp_path):
    for seed, wobble in enumerate((0.0, 0.01, 0.02)):  # both end alike, one gets there sooner
        fast, slow = (0.2, 0.8 + wobble, 0.8 + wobble), (0.2, 0.3 + wobble, 0.8 + wobble)
        write_run(tmp_path / "runs", point=f"fast{seed}", split=(8, 4), seed=seed, accuracies=fast)
        write_run(tmp_path / "runs", point=f"slow{seed}", split=(4, 8), seed=seed, accuracies=slow)
    speed, final = report(tmp_path).split("Order by final accuracy")
    assert "8 x 4 above 4 x 8 by 0.250" in speed  # means over the evaluations after the start: .8 and .55
    assert "0 of 1 pairs" in final


def test_the_final_accuracy_is_the_last_and_not_the_best(tmp_path):
    for seed, wobble in enumerate((0.0, 0.01, 0.02)):  # one point ends where it peaks, the other falls back
        write_run(tmp_path / "runs", point=f"a{seed}", split=(8, 4), seed=seed, accuracies=(0.2, 0.5, 0.7 + wobble))
        write_run(tmp_path / "runs", point=f"b{seed}", split=(4, 8), seed=seed, accuracies=(0.2, 0.9, 0.4 + wobble))
    text = report(tmp_path)
    assert "- 8 x 4 above 4 x 8 by 0.300" in text.split("Order by final accuracy")[1]
    assert table_of(text)["4 x 8"]["final pass@1"] == "0.410 ± 0.010"


def test_runs_that_are_not_finished_are_named(tmp_path):
    write_run(tmp_path / "runs", point="done", seed=0)
    write_run(tmp_path / "runs", point="cut_short", seed=1, status="stopped")
    write_run(tmp_path / "runs", point="just_begun", seed=2, status="running", accuracies=(0.2,))
    text = report(tmp_path)
    cut, begun = "cut_short (stopped, evaluated up to update 4)", "just_begun (running, evaluated up to update 0)"
    assert f"Not finished: {cut}, {begun}." in text
    assert table_of(text)["8 x 4"]["seeds"] == "1 + 1 unfinished (0, 1)"  # the other was never evaluated
    assert f"{tmp_path / 'runs' / 'just_begun'} was evaluated only before training" in text


def test_runs_that_are_not_finished_are_left_out_of_the_orders(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.90, 0.91, 0.92))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.50, 0.51, 0.52))
    for seed, final in ((3, 0.1), (4, 0.9)):  # with these two the spread would hide the order
        write_run(tmp_path / "runs", point=f"cut{seed}", seed=seed, accuracies=(0.2, final, final), status="stopped")
    text = report(tmp_path)
    assert "- 8 x 4 above 4 x 8 by 0.400 [0.377, 0.423]" in text  # as without them
    assert table_of(text)["8 x 4"]["seeds"] == "3 + 2 unfinished (0, 1, 2, 3, 4)"
    assert table_of(text)["8 x 4"]["final pass@1"] == "0.910 ± 0.010"


def test_a_point_without_two_finished_seeds_has_no_order(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.90, 0.91))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.50,))
    write_run(tmp_path / "runs", point="cut", split=(4, 8), seed=1, accuracies=(0.2, 0.5, 0.5), status="running")
    text = report(tmp_path)
    assert orders_of(text).count("no order is claimed") == 2
    assert " above " not in orders_of(text)


@pytest.mark.parametrize("value", [None, "high"])
@pytest.mark.parametrize("name", ["greedy", "pass@1", "pass@4"])
def test_a_null_or_a_word_in_the_last_evaluation_is_no_number(tmp_path, name, value):
    folder = write_run(tmp_path / "runs", point="p")
    *rows, last = (folder / "evals.jsonl").read_text().splitlines()
    last = json.loads(last) | {f"eval/digits/{name}": value}
    (folder / "evals.jsonl").write_text("\n".join([*rows, json.dumps(last)]) + "\n")
    # the metric of the targets falls back on the evaluation before, the others are unknown
    expected = "0.400" if name == "pass@1" else "unknown"
    assert table_of(report(tmp_path))["8 x 4"][f"final {name}"] == expected


def test_a_category_does_not_pass_for_the_whole(tmp_path):
    folder = write_run(tmp_path / "runs", point="p")
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
    folder = write_run(tmp_path / "runs", point="p")
    rows = (folder / "evals.jsonl").read_text().splitlines(keepends=True)
    (folder / "evals.jsonl").write_text("".join(rows[1:]))
    assert table_of(report(tmp_path))["8 x 4"]["start"] == "-"


def test_two_folders_of_one_point_and_seed_count_once(tmp_path):
    write_run(tmp_path / "runs", point="again", seed=1)
    write_run(tmp_path / "runs", point="first", seed=1)
    text = report(tmp_path)
    assert f"{tmp_path / 'runs' / 'again'} are also in {tmp_path / 'runs' / 'first'}: one run repeated" in text
    assert table_of(text)["8 x 4"]["seeds"] == "1 (1)"


def test_of_two_copies_the_one_that_went_further_counts(tmp_path):
    write_run(tmp_path / "runs", point="again", accuracies=(0.2, 0.4))
    write_run(tmp_path / "runs", point="first")
    assert table_of(report(tmp_path))["8 x 4"]["final pass@1"] == "0.800"


def test_a_finished_study_names_no_unfinished_run(tmp_path):
    write_run(tmp_path / "runs", point="done")
    assert "Not finished" not in report(tmp_path)


def test_a_last_line_cut_in_two_is_as_if_it_had_not_been_written(tmp_path):
    folder = write_run(tmp_path / "runs", point="p", accuracies=(0.2, 0.4, 0.8))
    for name in ("evals.jsonl", "metrics.jsonl"):
        path = folder / name
        path.write_text(path.read_text()[:-25])
    text = report(tmp_path)
    row = table_of(text)["8 x 4"]
    assert (row["final pass@1"], row["updates to 0.6"]) == ("0.400", "> 2")
    for name in ("evals.jsonl", "metrics.jsonl"):
        assert f"the last line of {folder / name} was cut and is left out." in text


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
    write_run(tmp_path / "runs", point="p", accuracies=(0.2, 0.4, 0.4, 0.4, 0.8), noise=noise)
    assert table_of(report(tmp_path))["8 x 4"]["noise-to-signal"] == cell


def test_noise_is_averaged_over_the_measurements_of_all_seeds(tmp_path):
    # one measurement each of 8, 16, 24 over 1: mean 16 / (8 prompts * 1) = 2; one seed alone would be unresolved
    for seed, trace_cov in enumerate((8.0, 16.0, 24.0)):
        noise = [{"gns/trace_cov": trace_cov, "gns/grad_sq": 1.0}]
        write_run(tmp_path / "runs", point=f"s{seed}", seed=seed, noise=noise)
    assert table_of(report(tmp_path))["8 x 4"]["noise-to-signal"].startswith("2.00 [0.56, ")  # as in test_seeds


def test_the_text_is_written_with_its_pictures(tmp_path):
    write_run(tmp_path / "runs", point="p")
    text = write_report(read_study([tmp_path / "runs"]), tmp_path / "out")
    written = (tmp_path / "out" / "comprehensive_summary.md").read_text("utf-8")
    assert text.startswith("# study\n")
    assert written.startswith(text)
    for picture in ("runs_comparison.png", "gns_comparison.png"):
        assert f"]({picture})" in written.removeprefix(text)
        assert (tmp_path / "out" / picture).is_file()
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_study_that_was_never_evaluated_is_written_too(tmp_path):
    for seed in range(3):
        (write_run(tmp_path / "runs", point=f"s{seed}", seed=seed, noise=NOISE) / "evals.jsonl").unlink()
    assert "was evaluated nowhere" in write_report(read_study([tmp_path / "runs"]), tmp_path / "out")
    assert len(read_csv(tmp_path / "out" / "combined_training_metrics.csv")) == 6
    assert "was evaluated nowhere" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_the_curves_have_a_line_for_every_point(tmp_path):
    path = tmp_path / "curves.png"
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.9, 0.8))
    runs_comparison(read_study([tmp_path / "runs"]).points, path)
    first_colour = np.array([0.239, 0.208, 0.547])  # at 0.05 of turbo
    one_line = pixels_of(path)
    assert has_colour(one_line, first_colour)
    assert has_colour(one_line, np.ones(3))
    make_point(tmp_path / "runs", split=(4, 8), finals=(0.5, 0.4))
    runs_comparison(read_study([tmp_path / "runs"]).points, path)
    last_colour = np.array([0.631, 0.069, 0.004])  # at 0.95 of it
    assert has_colour(pixels_of(path), last_colour)
    assert not has_colour(one_line, last_colour)


def test_the_noise_picture_marks_what_is_unresolved(tmp_path):
    path = tmp_path / "noise.png"
    write_run(tmp_path / "runs", point="resolved", split=(8, 4), accuracies=(0.2, 0.4, 0.4, 0.8), noise=NOISE)
    gns_comparison(read_study([tmp_path / "runs"]).points, path)
    assert has_colour(pixels_of(path), np.zeros(3))  # its dot
    assert not has_colour(pixels_of(path), FIREBRICK)
    write_run(tmp_path / "runs", point="unresolved", split=(4, 8), noise=NOISE[:1])
    gns_comparison(read_study([tmp_path / "runs"]).points, path)
    assert has_colour(pixels_of(path), FIREBRICK)


def test_the_table_of_runs_reads_back(tmp_path):
    write_run(tmp_path / "runs", point="a", seed=0)
    write_run(tmp_path / "runs", point="b", seed=1, accuracies=(0.2, 0.3, 0.4))
    write_runs(read_study([tmp_path / "runs"]), tmp_path / "runs.csv")
    a, b = read_csv(tmp_path / "runs.csv")
    assert (a["study"], a["point"], a["status"], a["seed"]) == ("study", "a", "finished", "0")
    assert (b["point"], b["status"], b["updates_to_0.6"]) == ("b", "finished", "")  # never got there
    expected = {
        "n_prompts": 8, "n_rollouts": 4, "updates": 4, "rollouts": 64, "seconds": 6.0, "start_accuracy": 0.2,
        "mean_accuracy": 0.45, "updates_to_0.6": 3.0, "final_greedy": 0.85, "final_pass@1": 0.8, "final_pass@4": 0.9,
    }  # fmt: skip
    for name, value in expected.items():
        assert math.isclose(float(a[name]), value), name


def test_the_table_of_metrics_has_every_row_of_every_run(tmp_path):
    write_run(tmp_path / "runs", point="a", seed=0)
    write_run(tmp_path / "runs", point="b", seed=1, noise=[{"gns/trace_cov": None, "gns/grad_sq": 1.5}])
    write_metrics(read_study([tmp_path / "runs"]), tmp_path / "metrics.csv")
    rows = read_csv(tmp_path / "metrics.csv")
    assert [(row["point"], row["update"], row["loss/total"]) for row in rows] == [
        ("a", "2", "0.5"),
        ("a", "4", "1.0"),
        ("b", "2", "0.5"),
        ("b", "4", "1.0"),
    ]
    assert [row["gns/grad_sq"] for row in rows] == ["", "", "1.5", ""]  # a column of some rows is empty in the others
    assert [row["gns/trace_cov"] for row in rows] == [""] * 4  # and so is null


def test_runs_of_another_learning_rate_are_points_of_their_own_and_not_of_the_same_law(tmp_path):
    write_run(tmp_path / "runs", point="small_step", **{"optimizer.peak_lr": 1e-4})
    write_run(tmp_path / "runs", point="large_step", **{"optimizer.peak_lr": 1e-3})
    text = report(tmp_path)
    assert list(table_of(text)) == ["8 x 4 [optimizer.peak_lr=0.0001]", "8 x 4 [optimizer.peak_lr=0.001]"]
    assert "differ in optimizer.peak_lr: groups that are fitted apart" in text


@pytest.mark.parametrize(
    "other",
    [{"task.name": "arithmetic"}, {"eval.target_metric": "greedy"}, {"eval.n_problems": 32}, {"model.width": 8}],
)
def test_runs_that_cannot_share_a_table_are_refused(tmp_path, other):
    write_run(tmp_path / "runs", point="a", **{"model.width": 96})
    write_run(tmp_path / "runs", point="b", split=(4, 8), **({"model.width": 96} | other))
    with pytest.raises(ValueError, match=f"the runs differ in {next(iter(other))} .*report them apart"):
        report(tmp_path)


def test_runs_with_other_targets_and_passes_share_a_table(tmp_path):
    write_run(tmp_path / "runs", point="a")
    write_run(tmp_path / "runs", point="b", split=(4, 8), **{"eval.targets": [0.5], "eval.k": [1]})
    text = report(tmp_path)
    rows = table_of(text)
    # 0.5 lies a quarter of the way from 0.4 at 2 to 0.8 at 4: 2.5 updates
    assert [(row["updates to 0.5"], row["updates to 0.6"]) for row in rows.values()] == [("2", "3"), ("2", "3")]
    assert "The runs were given different targets; each is read at all of them: 0.5, 0.6." in text


def test_runs_of_other_lengths_are_compared_where_all_of_them_were(tmp_path):
    write_run(tmp_path / "runs", point="short", n_updates=4)
    write_run(tmp_path / "runs", point="long", split=(4, 8), accuracies=(0.2, 0.4, 0.7, 0.9), n_updates=6)
    text = report(tmp_path)
    assert [row["final pass@1"] for row in table_of(text).values()] == ["0.800", "0.700"]
    assert "of different lengths (4, 6 updates)" in text


def test_a_study_without_any_result_is_refused(tmp_path):
    write_run(tmp_path / "runs", point="a", accuracies=(0.2,), status="running")
    with pytest.raises(ValueError, match=r"none of the 1 run\(s\) has been evaluated after its start or has a row"):
        report(tmp_path)


def test_names_of_runs_make_no_link_image_or_html_in_markdown():
    assert inert("![i](http://x.test) [a](b) <script> <!-- </b>") == (
        "![i]\\(http://x.test) [a]\\(b) &lt;script> &lt;!-- &lt;/b>"
    )
    plain = "B_noise < 480, 3 <= 4, (0, 50]; 42.1 [34.1, 50.8] (27 runs) | 1 |"
    assert inert(plain) == plain


def test_figures_of_an_earlier_report_do_not_stay_in_a_folder(tmp_path, monkeypatch):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.7, 0.8))
    monkeypatch.setattr("rlvr_jax.analysis.report.study_figures", lambda *_: [])  # takes seconds
    out = tmp_path / "out"
    out.mkdir()
    for name in ("iso_batch.png", "mine.png"):
        (out / name).write_bytes(PNG_MAGIC)
    (out / "comprehensive_summary.md").write_text("# s\n\n![Same batch](iso_batch.png)\n\n![x](../up.png)\n")
    (tmp_path / "up.png").write_bytes(PNG_MAGIC)
    write_report(read_study([tmp_path / "runs"]), out)
    assert not (out / "iso_batch.png").exists()
    assert (out / "mine.png").exists()
    assert (tmp_path / "up.png").exists()


def test_a_file_in_place_of_the_folder_is_refused_with_the_remedy(tmp_path):
    make_point(tmp_path / "runs", split=(8, 4), finals=(0.7,))
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="out is a file; give --out a folder"):
        write_report(read_study([tmp_path / "runs"]), tmp_path / "out")
