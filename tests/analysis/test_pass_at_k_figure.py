import json

import matplotlib.image
import numpy as np
from written_runs import write_rows, write_run

from rlvr_jax.analysis.pass_at_k_figure import measured_ks, pass_at_k_at_the_end, pass_at_k_over_training
from rlvr_jax.analysis.study import read_study

FIRST_COLOUR = np.array([0.239, 0.208, 0.547])  # at 0.05 of turbo


def has_line(path):
    pixels = matplotlib.image.imread(path)[:, :, :3]
    return bool((np.abs(pixels - FIRST_COLOUR).max(axis=2) < 0.02).any())


def test_the_ks_are_those_of_the_task_as_a_whole(tmp_path):
    folder = write_run(tmp_path, point="a")  # pass@1 and pass@4
    rows = [json.loads(line) for line in (folder / "evals.jsonl").read_text().splitlines()]
    of_category = {"eval/digits/addition/pass@2": 0.5, "eval/digits/pass@16": 0.9, "eval/digits/pass@16_se": 0.01}
    write_rows(folder / "evals.jsonl", [row | of_category for row in rows])
    assert measured_ks(read_study([tmp_path]).points) == [1, 4, 16]


def test_curves_are_drawn_of_a_k_that_was_measured_and_none_of_another(tmp_path):
    write_run(tmp_path / "runs", point="a")
    points = read_study([tmp_path / "runs"]).points
    pass_at_k_over_training(points, tmp_path / "4.png", k=4)
    pass_at_k_over_training(points, tmp_path / "3.png", k=3)
    pass_at_k_at_the_end(points, tmp_path / "end.png", ks=[1, 4])
    assert [has_line(tmp_path / f"{name}.png") for name in ("4", "3", "end")] == [True, False, True]


def test_dollars_in_names_are_no_formulas(tmp_path):
    write_run(tmp_path / "runs", point="a", **{"algo.objective": "$\\no_such_command$"})
    write_run(tmp_path / "runs", point="b", **{"algo.objective": "other"})
    points = read_study([tmp_path / "runs"]).points
    assert "$" in points[0].name
    pass_at_k_over_training(points, tmp_path / "4.png", k=4)
    pass_at_k_at_the_end(points, tmp_path / "end.png", ks=[1, 4])
    assert has_line(tmp_path / "4.png")
    assert has_line(tmp_path / "end.png")


def test_seeds_that_ended_at_different_times_are_all_drawn(tmp_path):
    write_run(tmp_path / "runs", point="a", seed=0, accuracies=(0.2, 0.4, 0.8))
    write_run(tmp_path / "runs", point="b", seed=1, accuracies=(0.2, 0.4), status="running")
    folder = write_run(tmp_path / "runs", point="c", seed=2)
    write_rows(folder / "evals.jsonl", [{"update": 3, "eval/digits/pass@1": 0.5, "eval/digits/pass@4": 0.6}])
    points = read_study([tmp_path / "runs"]).points  # no update was evaluated by all three
    pass_at_k_over_training(points, tmp_path / "4.png", k=4)
    pass_at_k_at_the_end(points, tmp_path / "end.png", ks=[1, 4])
    assert has_line(tmp_path / "4.png")
