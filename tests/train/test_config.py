"""Fields by their dotted path, and what follows from them."""

import dataclasses
import re

import pytest

from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields, set_field


def config_with(**changes):
    """The default config; batch__n_prompts=8 sets batch.n_prompts."""
    config = TrainConfig()
    for name, value in changes.items():
        set_field(config, name.replace("__", "."), value)
    return config


def test_leaves_are_listed_by_their_dotted_path():
    flat = flat_fields(TrainConfig())
    assert (flat["batch.n_prompts"], flat["n_updates"], flat["eval.k"]) == (64, 100, (1, 4, 8))
    assert "batch" not in flat
    assert not any(dataclasses.is_dataclass(value) for value in flat.values())


@pytest.mark.parametrize("path", flat_fields(TrainConfig()))
def test_setting_a_leaf_changes_that_leaf_alone(path):
    config, before, new = TrainConfig(), flat_fields(TrainConfig()), object()
    set_field(config, path, new)
    assert flat_fields(config) == before | {path: new}
    assert flat_fields(TrainConfig()) == before  # no default is shared


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("batch.n_promts", "batch.n_prompts"),
        ("batch.n_rollout", "batch.n_rollouts"),
        ("n_prompts", "batch.n_prompts"),  # the leaf without its group
        ("sampling.temperatur", "sampling.temperature"),
        ("n_update", "n_updates"),
        ("optimiser.peak_lr", "optimizer.peak_lr"),
        ("seeds", "seed"),
        ("optimizer.lr", "optimizer.peak_lr"),  # a part of the name
        ("task.max", "task.operand_max"),
        ("eval.every", "eval.every_updates"),  # and not checkpoint.every_updates
        ("temperature", "sampling.temperature"),  # and not eval.temperature
        ("eval.k[0]", "eval.k"),
    ],
)
def test_an_unknown_field_names_the_nearest_one(path, nearest):
    with pytest.raises(ConfigError) as refused:
        set_field(TrainConfig(), path, 1)
    assert refused.value.problems == [f"config.{path} is no field of the config; did you mean config.{nearest}?"]


def test_a_group_of_fields_is_no_field():
    with pytest.raises(ConfigError, match=r"config\.batch is a group of fields; set one of config\.batch\.n_prompts, "):
        set_field(TrainConfig(), "batch", 1)


def test_a_field_like_no_other_still_names_one_that_exists():
    with pytest.raises(ConfigError) as refused:
        set_field(TrainConfig(), "zzz", 1)
    (named,) = re.findall(r"did you mean config\.(.*)\?$", str(refused.value))
    assert named in flat_fields(TrainConfig())


def test_automatic_sizes_follow_from_what_is_set():
    automatic = config_with(batch__n_prompts=64)
    assert (automatic.minibatch_prompts, automatic.microbatch_prompts, automatic.updates_per_step) == (64, 64, 1)
    # 64 prompts in minibatches of 16, twice: 2 * 4 updates
    split = config_with(batch__n_prompts=64, batch__minibatch_prompts=16, batch__epochs_per_buffer=2)
    assert (split.minibatch_prompts, split.microbatch_prompts, split.updates_per_step) == (16, 16, 8)
    assert config_with(batch__minibatch_prompts=16, batch__microbatch_prompts=4).microbatch_prompts == 4
    assert config_with(n_updates=70).decay_updates == 70
    assert config_with(n_updates=70, optimizer__decay_updates=50).decay_updates == 50


def test_a_point_is_named_after_its_split_and_seed_unless_it_has_a_name():
    named_by_split = config_with(study="cbs", batch__n_prompts=8, batch__n_rollouts=32, seed=2)
    assert named_by_split.point_name == "cbs_np8_nr32_s2"
    assert config_with(point="mine").point_name == "mine"
