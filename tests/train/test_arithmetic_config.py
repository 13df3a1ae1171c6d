"""configs/arithmetic.py: every variant could run, and changes what its name says."""

import pytest
from absl import flags

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.config import ConfigError, flat_fields
from rlvr_jax.train.config_file import load_points
from rlvr_jax.train.validate import validate

VARIANTS = (
    "base", "numbers_to_10", "problems_100", "all_problems", "dr_grpo", "unscaled", "beta_0", "beta_02", "rollouts_4",
    "rollouts_64", "temperature_07", "temperature_1", "partial_credit", "mixed", "difficulties", "curriculum",
    "mixed_curriculum", "threshold", "best_of_4", "rollouts_4_of_8",
)  # fmt: skip


def points_of(arg):
    return load_points(["bin/train", f"--config=arithmetic.py{arg and ':' + arg}"], flags.FlagValues())


def changed(variant):
    (base,), (point,) = points_of("tiny"), points_of(f"tiny_{variant}")
    before = flat_fields(base)
    return {name: value for name, value in flat_fields(point).items() if value != before[name] and name != "study"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_valid_and_the_tiny_one_fits_its_data(variant):
    (tiny,), (large,) = points_of(f"tiny_{variant}"), points_of(variant)
    tiny.placement.data = 1
    parts = assemble(tiny)
    validate(large)
    assert (tiny.study, large.study) == (f"arithmetic_tiny_{variant}", f"arithmetic_{variant}")
    assert parts.plan.rollouts_per_step == (32 if variant == "rollouts_4_of_8" else 128)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("beta_0", {"algo.kl_coef": 0.0}),
        ("rollouts_4", {"batch.n_rollouts": 4, "batch.n_prompts": 32}),  # as many rollouts as 8 x 16
        ("rollouts_64", {"batch.n_rollouts": 64, "batch.n_prompts": 2}),
        ("dr_grpo", {"algo.advantage": "centred", "algo.averaging": "constant_length"}),
        ("problems_100", {"task.n_problems": 100}),
    ],
)
def test_a_variant_changes_nothing_else(variant, expected):
    assert changed(variant) == expected


def test_the_stages_of_a_curriculum_are_a_third_of_the_run_each():
    found = changed("curriculum")
    (base,) = points_of("tiny")
    third = base.n_updates * base.batch.n_prompts // 3
    assert found["task.stage_prompts"] == (third, third)
    assert [stage.n_prompts for stage in assemble(points_of("tiny_curriculum")[0]).plan.stages][:2] == [third, third]


def test_the_claims_compare_runs_over_three_seeds():
    points = points_of("tiny_claims")
    assert {point.seed for point in points} == {0, 1, 2}
    names = [point.point_name for point in points]
    assert len(set(names)) == len(names)
    assert names[:2] == ["arithmetic_tiny_claims_base_s0", "arithmetic_tiny_claims_beta_0_s0"]
    for point in points:
        validate(point)
    for study in {point.study for point in points}:  # bin/report compares runs of one task
        assert len({str(point.task) for point in points if point.study == study}) == 1


@pytest.mark.parametrize("arg", ["tiny_nothing", "nothing", "tinybase"])
def test_an_unknown_variant_is_refused(arg):
    with pytest.raises(ConfigError, match=rf"arithmetic.py:{arg} is unknown; use tiny or tiny_VARIANT"):
        points_of(arg)
