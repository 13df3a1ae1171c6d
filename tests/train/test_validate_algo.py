"""Which settings of the algorithm are refused, with what words, and which are only warned about."""

import pytest

from rlvr_jax.train.config import TrainConfig, set_field
from rlvr_jax.train.validate import validate
from rlvr_jax.train.validate_algo import algo_problems, algo_warnings


def config_with(**changes):
    """The default config; batch__n_prompts=8 sets batch.n_prompts, a name without a group one of algo."""
    config = TrainConfig()
    for name, value in changes.items():
        set_field(config, name.replace("__", ".") if "__" in name else f"algo.{name}", value)
    return config


# what people use
PRESETS = {
    "defaults": {},
    "GRPO": {"advantage": "grpo", "averaging": "sequence", "kl_coef": 0.04},
    "Dr. GRPO": {"advantage": "centred", "averaging": "constant_length"},
    "DAPO": {
        "advantage": "grpo", "averaging": "token", "clip_high": 0.28, "overlong_buffer_tokens": 4,
        "sampling__max_rounds": 4,
    },
    "GSPO": {
        "advantage": "grpo", "ratio": "sequence", "averaging": "sequence", "clip_low": 3e-4, "clip_high": 4e-4,
        "batch__minibatch_prompts": 16,
    },
    "CISPO": {"objective": "cispo", "clip_low": 1.0, "averaging": "token", "batch__epochs_per_buffer": 2},
    "REINFORCE++": {
        "advantage": "reinforce++", "kl_in": "reward", "kl_estimator": "k1", "kl_coef": 0.01, "batch__n_rollouts": 1,
    },
    "REINFORCE": {"advantage": "none", "batch__n_rollouts": 1},
    "a dual clip": {"dual_clip": 3.0, "batch__minibatch_prompts": 32},
    "truncated ones masked": {"truncated": "mask", "importance_cap": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_what_people_use_is_neither_refused_nor_warned_about(preset):
    config = config_with(**PRESETS[preset])
    validate(config)
    assert algo_problems(config) == []
    assert algo_warnings(config) == []


REFUSED = [
    (
        {"advantage": "ppo"},
        "algo.advantage='ppo' is not one of "
        "('grpo', 'centred', 'rloo', 'batch_scaled', 'batch_mean', 'reinforce++', 'none')",
    ),
    ({"objective": "ppo"}, "algo.objective='ppo' is not one of ('clipped', 'cispo')"),
    ({"ratio": "word"}, "algo.ratio='word' is not one of ('token', 'sequence')"),
    ({"kl_estimator": "k4"}, "algo.kl_estimator='k4' is not one of ('k1', 'k2', 'k3')"),
    ({"kl_in": "advantage"}, "algo.kl_in='advantage' is not one of ('loss', 'reward')"),
    ({"truncated": "drop"}, "algo.truncated='drop' is not one of ('train', 'mask', 'penalise')"),
    ({"averaging": "mean"}, "algo.averaging='mean' is not one of ('sequence', 'token', 'constant_length')"),
    ({"clip_low": 1.01}, "algo.clip_low=1.01 must be at most 1: ratios are never negative"),
    ({"std_ddof": 2}, "algo.std_ddof=2 must be 0 (divide by n) or 1 (divide by n - 1)"),
    ({"std_ddof": -1}, "algo.std_ddof=-1 must be 0 (divide by n) or 1 (divide by n - 1)"),
    ({"dual_clip": 1.0}, "algo.dual_clip=1.0 must be above 1, such as 3, or 0 for none"),
    ({"dual_clip": 0.2}, "algo.dual_clip=0.2 must be above 1, such as 3, or 0 for none"),
    (
        {"dual_clip": 3.0, "objective": "cispo"},
        "algo.dual_clip=3.0 does nothing with algo.objective='cispo'; set algo.dual_clip=0",
    ),
    (
        {"overlong_buffer_tokens": 9, "sampling__max_new_tokens": 8},
        "algo.overlong_buffer_tokens=9 is more than sampling.max_new_tokens=8; use that or less",
    ),
    (
        {"batch__n_rollouts": 1, "batch__n_prompts": 1, "advantage": "none"},
        "batch.n_prompts=1 with batch.n_rollouts=1 leaves nothing to compare with; use more of either",
    ),
    (
        {"sampling__max_rounds": 2, "advantage": "batch_mean"},
        "sampling.max_rounds=2 replaces groups of equal rewards, which only a group baseline ignores; "
        "with algo.advantage='batch_mean' use sampling.max_rounds=1",
    ),
    (
        {"sampling__max_rounds": 3, "advantage": "none", "batch__n_rollouts": 1},
        "sampling.max_rounds=3 replaces groups of equal rewards, which only a group baseline ignores; "
        "with algo.advantage='none' use sampling.max_rounds=1",
    ),
    ({"select": "best"}, "algo.select='best' is not one of ('all', 'threshold', 'best_of_n')"),
    (
        {"select": "best_of_n", "select_n": 5, "batch__n_rollouts": 4},
        "algo.select_n=5 is more than batch.n_rollouts=4; use that or less",
    ),
    (
        {"select": "threshold", "noise__every_updates": 10},
        "algo.select='threshold' follows the gradient of selected rollouts, which is not the one whose noise "
        "noise.every_updates=10 measures; set noise.every_updates=0 or algo.select='all'",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), REFUSED)
def test_a_setting_that_cannot_work_is_named_with_its_value_and_the_fix(changes, expected):
    assert algo_problems(config_with(**changes)) == [expected]


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_low": 1.0},
        {"std_ddof": 0},
        {"dual_clip": 1.01},
        {"overlong_buffer_tokens": 8, "sampling__max_new_tokens": 8},
        {"batch__n_rollouts": 1, "batch__n_prompts": 2, "advantage": "batch_mean"},
        {"batch__n_rollouts": 2, "batch__n_prompts": 1, "advantage": "batch_mean"},
        {"sampling__max_rounds": 1, "advantage": "batch_mean"},
        {"sampling__max_rounds": 9, "advantage": "batch_scaled"},
        {"select": "best_of_n", "select_n": 4, "batch__n_rollouts": 4},
        {"select": "threshold", "select_threshold": -0.5},
        {"select_n": 9, "batch__n_rollouts": 4, "noise__every_updates": 10},
    ],
)
def test_a_setting_at_its_limit_is_not_refused(changes):
    assert algo_problems(config_with(**changes)) == []


@pytest.mark.parametrize("kind", ["grpo", "centred", "rloo", "batch_scaled"])
def test_a_group_of_one_has_nothing_to_compare_with(kind):
    (problem,) = algo_problems(config_with(batch__n_rollouts=1, advantage=kind))
    assert problem == (
        f"batch.n_rollouts=1 leaves algo.advantage={kind!r} without a group to compare with; "
        "use batch.n_rollouts=2 or more, or algo.advantage=batch_mean or reinforce++ or none"
    )
    for fix in (
        {"batch__n_rollouts": 2},
        {"advantage": "batch_mean"},
        {"advantage": "reinforce++"},
        {"advantage": "none"},
    ):
        assert algo_problems(config_with(**({"batch__n_rollouts": 1, "advantage": kind} | fix))) == []


def test_an_unknown_advantage_is_said_once():
    changes = {"advantage": "ppo", "batch__n_rollouts": 1, "batch__n_prompts": 1, "sampling__max_rounds": 2}
    (problem,) = algo_problems(config_with(**changes))
    assert problem.startswith("algo.advantage='ppo' is not one of")


def test_all_that_cannot_work_is_said_at_once():
    config = config_with(std_ddof=3, dual_clip=0.5, objective="cispo", averaging="mean", batch__n_rollouts=1)
    named = [problem.split("=")[0] for problem in algo_problems(config)]
    assert named == ["algo.averaging", "algo.std_ddof", "algo.dual_clip", "algo.dual_clip", "batch.n_rollouts"]


def test_dynamic_sampling_needs_groups_of_several_whatever_the_baseline():
    named = [p.split("=")[0] for p in algo_problems(config_with(batch__n_rollouts=1, sampling__max_rounds=2))]
    assert named == ["batch.n_rollouts", "sampling.max_rounds"]


KL_K1 = (
    "algo.kl_estimator='k1' in the loss has zero expected gradient and only adds noise; "
    "use 'k3', or algo.kl_in='reward'"
)
KL_DEAD = "algo.kl_in and algo.kl_estimator do nothing while algo.kl_coef=0"
RATIO_ONE = (
    "with one update per step the ratio is exactly 1 and nothing is clipped; "
    "set batch.minibatch_prompts or batch.epochs_per_buffer for several"
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kl_coef": 0.1, "kl_estimator": "k1"}, [KL_K1]),
        ({"kl_coef": 0.1, "kl_estimator": "k2"}, []),
        ({"kl_coef": 0.1, "kl_estimator": "k1", "kl_in": "reward"}, []),
        ({"kl_estimator": "k1"}, [KL_DEAD]),
        ({"kl_in": "reward"}, [KL_DEAD]),
        ({"sampling__max_rounds": 2}, []),
        ({"noise__every_updates": 5}, []),
        ({"ratio": "sequence"}, [RATIO_ONE]),
        ({"objective": "cispo"}, [RATIO_ONE]),
        ({"dual_clip": 3.0}, [RATIO_ONE]),
        ({"dual_clip": 3.0, "batch__minibatch_prompts": 64}, [RATIO_ONE]),  # all of them: still one update
        ({"dual_clip": 3.0, "batch__minibatch_prompts": 32}, []),
        ({"ratio": "sequence", "batch__epochs_per_buffer": 2}, []),
        ({"ratio": "sequence", "kl_in": "reward"}, [KL_DEAD, RATIO_ONE]),
    ],
)
def test_what_works_but_may_surprise_is_warned_about(changes, expected):
    config = config_with(**changes)
    assert algo_problems(config) == []
    assert algo_warnings(config) == expected
