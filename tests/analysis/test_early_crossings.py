"""Crossings that did not last."""

from written_runs import write_run

from rlvr_jax.analysis.early_crossings import early_crossings
from rlvr_jax.analysis.study import read_study


def test_a_run_that_fell_below_the_target_again_is_counted(tmp_path):
    # the target is 0.6; evaluations follow each other: the mean of the three after the crossing is 0.583 and 0.7
    write_run(tmp_path / "s", point="lucky", accuracies=(0.2, 0.61, 0.55, 0.55, 0.65, 0.9))
    write_run(tmp_path / "s", point="steady", split=(16, 4), accuracies=(0.2, 0.61, 0.55, 0.75, 0.8, 0.9))
    (said,) = early_crossings(read_study([tmp_path / "s"]))
    assert "below the target again: 1 of 2 to 0.6." in said
    assert said.endswith("; --smooth=3 reads targets from a trailing mean instead.")


def test_runs_that_ended_at_the_target_say_nothing(tmp_path):
    write_run(tmp_path / "s", point="short", accuracies=(0.2, 0.61, 0.5, 0.5))
    write_run(tmp_path / "s", point="never", split=(16, 4), accuracies=(0.2, 0.3, 0.3, 0.3, 0.3, 0.3))
    assert early_crossings(read_study([tmp_path / "s"])) == []
