"""The table of residuals, from fits written by hand."""

import pytest
from law_fits import at_target, law, seen

from rlvr_jax.analysis.law_residuals import aligned, residual_text


def cells_of(text, name):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_run_has_a_line_and_every_target_a_column():
    # at B_noise 256 and S_min 100: 200 at B = 256, 150 at 512, 125 at 1024
    easy = law([seen(32, 220), seen(64, 120), seen(128, 125)], s_min=100, b_noise=256)
    hard = law([seen(32, 220, target=0.6), seen(64, 150, target=0.6)], s_min=100, b_noise=256)
    text = residual_text([at_target(0.5, easy), at_target(0.6, hard)], unit="step")
    assert cells_of(text, "run") == ["run", "P x R", "0.5", "0.6"]
    assert cells_of(text, "B256") == ["B256", "32 x 8", "+10%", "+10%"]
    assert cells_of(text, "B512") == ["B512", "64 x 8", "-20%", "+0%"]
    assert cells_of(text, "B1024") == ["B1024", "128 x 8", "+0%", ""]  # no row of the table


def test_a_law_within_what_evaluations_leave_open_is_in_brackets():
    points = [seen(32, 225, every=50), seen(64, 200, every=25), seen(128, 125, every=25)]
    text = residual_text([at_target(0.5, law(points, s_min=100, b_noise=256))], unit="step")
    assert cells_of(text, "B256")[2] == "(+12%)"  # 200 lies in (175, 225]
    assert cells_of(text, "B512")[2] == "+33%"  # 150 does not lie in (175, 200]
    assert cells_of(text, "B1024")[2] == "(+0%)"  # 125 is in (100, 125]


def test_a_run_that_never_got_there_contradicts_the_law_only_beyond_it():
    points = [seen(32, None, ran=150), seen(64, None, ran=180), seen(128, 125)]
    text = residual_text([at_target(0.5, law(points, s_min=100, b_noise=256))], unit="step")
    assert cells_of(text, "B256")[2] == "-"  # the law says 200, and it ran 150
    assert cells_of(text, "B512")[2] == ">+20%"  # the law says 150, and it ran 180


def test_absolute_residuals_are_counts():
    points = [seen(32, 220), seen(64, 120), seen(128, 125.2)]
    text = residual_text([at_target(0.5, law(points, s_min=100, b_noise=256, residuals="absolute"))], unit="update")
    assert "Printed - fitted, in updates, of the absolute fit:" in text
    assert [cells_of(text, name)[2] for name in ("B256", "B512", "B1024")] == ["+20", "-30", "0"]


def test_seeds_share_a_line_and_many_runs_share_one_per_size():
    seeds = [seen(32, 220, seed=0), seen(32, 180, seed=1), seen(32, 240, seed=2)]
    text = residual_text([at_target(0.5, law(seeds, s_min=100, b_noise=256))], unit="step")
    # mean of ln 1.1, ln 0.9, ln 1.2 is 0.0574
    assert cells_of(text, "B256")[2] == "+6%"
    late = [*seeds[:2], seen(32, None, ran=300, seed=2)]
    text = residual_text([at_target(0.5, law(late, s_min=100, b_noise=256))], unit="step")
    assert cells_of(text, "B256")[2] == "-1% 2/3"  # mean of ln 1.1, ln 0.9 is -0.005
    many = [seen(32, 200, run=f"r{k}") for k in range(12)] + [seen(64, 150, run=f"q{k}") for k in range(11)]
    text = residual_text([at_target(0.5, law(many, s_min=100, b_noise=256))], unit="step")
    assert cells_of(text, "12") == ["12", "32 x 8", "+0%"]
    assert cells_of(text, "11") == ["11", "64 x 8", "+0%"]
    sizes = [seen(p, 100, run=f"r{p}") for p in range(1, 101)]
    text = residual_text([at_target(0.5, law(sizes, s_min=100, b_noise=256))], unit="step")
    assert text.splitlines()[-1] == "... and 60 more sizes"


def test_many_targets_are_several_tables_and_the_joint_fit_is_left_alone():
    fits = [at_target(k / 10, law([seen(32, 200, target=k / 10)], s_min=100, b_noise=256)) for k in range(1, 11)]
    text = residual_text([*fits, at_target(None, fits[0].fit)], unit="step")
    assert sum(line.startswith("| run") for line in text.splitlines()) == 2
    assert "all" not in text
    assert residual_text([], unit="step") == ""


def test_a_table_is_markdown_with_columns_of_one_width():
    assert aligned([["a|b"], ["c"]])[0] == "| a\\|b |"
    assert aligned([["a", "long"], ["first", "1"]]) == ["| a     | long |", "|-------|-----:|", "| first |    1 |"]
    with pytest.raises(IndexError):
        aligned([])
