"""The learning rate of a point, and its rule over batch sizes."""

import dataclasses

import pytest

from rlvr_jax.train import config as c
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.batch_plan import plan_table
from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.validate import validate
from rlvr_jax.train.validate_optimizer import optimizer_warnings


def ruled(**optimizer):
    """64 prompts x 8 rollouts, taken as 4 updates of 128 rollouts."""
    batch = c.BatchConfig(n_prompts=64, n_rollouts=8, minibatch_prompts=16)
    return c.TrainConfig(batch=batch, optimizer=c.OptimizerConfig(peak_lr=1e-4, **optimizer))


@pytest.mark.parametrize(
    ("rule", "reference", "rate", "origin"),
    [
        ("constant", 0, 1e-4, ""),
        ("sqrt", 32, 2e-4, "0.0001 x sqrt(128 / 32)"),  # an update has 16 * 8 rollouts, sqrt(4) = 2
        ("sqrt", 512, 5e-5, "0.0001 x sqrt(128 / 512)"),
        ("linear", 32, 4e-4, "0.0001 x 128 / 32"),
        ("linear", 128, 1e-4, "0.0001 x 128 / 128"),
    ],
)
def test_the_rate_in_use_grows_with_the_rollouts_of_an_update(rule, reference, rate, origin):
    config = ruled(lr_rule=rule, lr_reference_rollouts=reference)
    validate(config)
    assert config.peak_lr == pytest.approx(rate, rel=1e-12)
    assert config.peak_lr_origin == origin


def test_a_constant_rate_is_the_stated_one_to_the_last_bit():
    assert ruled().peak_lr == 1e-4


def test_an_adapters_rate_follows_the_rule_too():
    config = ruled(lr_rule="sqrt", lr_reference_rollouts=32)
    config.lora.enabled = True
    assert config.peak_lr == pytest.approx(2e-3)  # ten times 1e-4, times 2
    assert config.peak_lr_text == "lora.peak_lr=0.001 (in use: 0.002)"


def test_the_plan_and_its_table_show_the_rate_and_how_it_comes_about(tiny_config):
    tiny_config.optimizer = dataclasses.replace(tiny_config.optimizer, lr_rule="sqrt", lr_reference_rollouts=8)
    plan = assemble(tiny_config).plan  # 8 x 4 rollouts
    assert plan.peak_lr == pytest.approx(2e-3)
    assert [line.split() for line in plan_table(plan).splitlines() if "learning rate" in line] == [
        ["learning", "rate", "0.002", "=", "0.001", "x", "sqrt(32", "/", "8)"]
    ]


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ({"lr_rule": "cubic"}, "optimizer.lr_rule='cubic' is not one of ('constant', 'sqrt', 'linear', 'grid')"),
        ({"lr_rule": "sqrt"}, "set optimizer.lr_reference_rollouts to that one's rollouts per update (here it is 128)"),
        ({"lr_rule": "linear", "lr_reference_rollouts": -8}, "optimizer.lr_reference_rollouts=-8 must be at least 0"),
        ({"lr_rule": "grid"}, "set optimizer.lr_grid, such as (0.5, 1, 2)"),
        ({"lr_rule": "grid", "lr_grid": (1.0, 0.0)}, "optimizer.lr_grid=(1.0, 0.0) must be different factors above 0"),
        ({"lr_rule": "grid", "lr_grid": (1.0, 1.0)}, "optimizer.lr_grid=(1.0, 1.0) must be different factors above 0"),
        ({"lr_rule": "grid", "lr_grid": ("1",)}, "optimizer.lr_grid=('1',) must be a tuple of numbers"),
        ({"lr_rule": "grid", "lr_grid": (1e306, 1e308, 1e309)}, "lr_grid=(1e+306, 1e+308, inf) must be"),
        (
            {"lr_rule": "grid", "lr_grid": (1e-322,)},
            "comes to a rate of 0 by optimizer.lr_rule='grid' with the factor 9",
        ),
    ],
)
def test_a_rule_that_cannot_work_is_refused_with_the_fix(optimizer, words):
    with pytest.raises(ConfigError) as refused:
        validate(ruled(**optimizer))
    assert any(words in problem for problem in refused.value.problems)


def test_a_rate_that_overflows_is_refused_before_the_first_update():
    config = ruled(lr_rule="linear", lr_reference_rollouts=1)
    config.optimizer.peak_lr = 1e307  # times 128
    with pytest.raises(ConfigError, match=r"optimizer\.peak_lr=1e\+307 \(in use: inf\) comes to a rate of inf"):
        validate(config)


@pytest.mark.parametrize(
    ("optimizer", "named"),
    [
        ({}, []),
        ({"lr_rule": "sqrt", "lr_reference_rollouts": 128}, []),
        ({"lr_reference_rollouts": 128}, ["optimizer.lr_reference_rollouts"]),
        ({"lr_grid": (1.0, 2.0)}, ["optimizer.lr_grid"]),
    ],
)
def test_a_setting_of_another_rule_is_warned_of(optimizer, named):
    warnings = optimizer_warnings(ruled(**optimizer))
    assert [warning.split()[0] for warning in warnings] == named
