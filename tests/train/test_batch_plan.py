"""What a run will do, counted before it does it."""

import dataclasses
import itertools

import pytest

from rlvr_jax.train import config as c
from rlvr_jax.train.batch_plan import batch_plan, is_due, is_noise_due, plan_table, plan_warnings
from rlvr_jax.train.validate import validate

DATA = {
    "n_train": 48,
    "n_heldout": 20,
    "n_left_out": (0, 0),
    "n_long_prompts": 0,
    "longest_prompt_tokens": 7,
    "longest_completion_tokens": 4,
    "max_positions": None,
    "n_devices": 1,
    "n_parameters": 1_000,
    "n_trained_parameters": 250,
}


def split_config():
    """8 prompts x 4 rollouts, taken twice in minibatches of 4 prompts and backward passes of 2."""
    return c.TrainConfig(
        n_updates=12,
        batch=c.BatchConfig(n_prompts=8, n_rollouts=4, minibatch_prompts=4, microbatch_prompts=2, epochs_per_buffer=2),
        sampling=c.SamplingConfig(max_new_tokens=4),
        noise=c.NoiseConfig(every_updates=6),
        eval=c.EvalConfig(every_updates=5, n_problems=16),
    )


def stepping_config(updates_per_step, *, n_steps, every_updates):
    return c.TrainConfig(
        n_updates=n_steps * updates_per_step,
        batch=c.BatchConfig(n_prompts=2 * updates_per_step, minibatch_prompts=2),
        noise=c.NoiseConfig(every_updates=every_updates),
    )


def problems_of(config, **changes):
    with pytest.raises(c.ConfigError) as refused:
        batch_plan(config, **(DATA | changes))
    return refused.value.problems


def test_every_number_of_a_plan():
    plan = batch_plan(split_config(), **DATA)
    assert dataclasses.asdict(plan) == {
        "n_prompts": 8,
        "n_rollouts": 4,
        "rollouts_per_step": 32,  # 8 * 4
        "minibatch_prompts": 4,
        "rollouts_per_update": 16,  # 4 * 4
        "updates_per_step": 4,  # 2 passes over 8 / 4 minibatches
        "microbatch_prompts": 2,
        "microbatches_per_update": 2,  # 4 / 2
        "n_updates": 12,
        "n_steps": 3,  # 12 / 4
        "total_prompts": 24,  # 3 * 8
        "total_rollouts": 96,  # 3 * 32
        "n_train": 48,
        "n_heldout": 20,
        "n_train_left_out": 0,
        "n_heldout_left_out": 0,
        "passes_over_data": 0.5,  # 24 / 48
        "max_prompt_tokens": 7,
        "max_new_tokens": 4,
        "max_step_tokens": 352,  # 32 * (7 + 4)
        "n_devices": 1,
        "n_shards": 1,
        # steps end after updates 4, 8, 12: 5 falls into the second, 10 into the third; and the start
        "n_evaluations": 3,
        # steps begin after updates 0, 4, 8: 0 is due at the first, 6 at the third
        "n_noise_measurements": 2,
        "n_parameters": 1_000,
        "n_trained_parameters": 250,
        "peak_lr": 1e-4,
        "peak_lr_origin": "",  # as stated
        "stages": (),
    }


def test_what_is_automatic_follows_n_prompts(tiny_config):  # 8 prompts x 4 rollouts, 4 updates
    plan = batch_plan(tiny_config, **DATA)
    assert (plan.minibatch_prompts, plan.microbatch_prompts) == (8, 8)
    assert (plan.updates_per_step, plan.microbatches_per_update, plan.n_steps) == (1, 1, 4)
    assert plan.rollouts_per_update == plan.rollouts_per_step == 32
    assert plan.n_evaluations == 3  # the start, after 2 and after 4 updates
    assert plan.n_noise_measurements == 2  # before the first and the third update


@pytest.mark.parametrize(("max_prompt_tokens", "planned"), [(0, 7), (7, 7), (10, 10)])
def test_the_prompt_length_is_the_longest_unless_more_is_asked(max_prompt_tokens, planned):
    config = split_config()
    config.sampling.max_prompt_tokens = max_prompt_tokens
    plan = batch_plan(config, **DATA)
    assert plan.max_prompt_tokens == planned
    assert plan.max_step_tokens == 32 * (planned + 4)


def test_more_prompts_than_training_problems_are_refused():
    (problem,) = problems_of(split_config(), n_train=7)
    assert "batch.n_prompts=8 is more than the 7 training problems" in problem
    assert "use batch.n_prompts=7 or less" in problem
    assert batch_plan(split_config(), **(DATA | {"n_train": 8})).passes_over_data == 3.0


def test_more_evaluation_problems_than_heldout_ones_are_refused():
    (problem,) = problems_of(split_config(), n_heldout=15)
    assert "eval.n_problems=16 is more than the 15 held-out problems" in problem
    assert "use eval.n_problems=15 or less" in problem
    assert batch_plan(split_config(), **(DATA | {"n_heldout": 16})).n_heldout == 16


def test_prompts_longer_than_the_limit_are_counted_and_refused():
    config = split_config()
    config.sampling.max_prompt_tokens = 6
    (problem,) = problems_of(config, n_long_prompts=5)
    # 48 training and 20 held-out problems; the longest has 7 tokens
    assert "sampling.max_prompt_tokens=6 is exceeded by 5 of the 68 prompts" in problem
    assert "the longest has 7 tokens; use 7, or 0 for automatic, or sampling.long_prompts='leave_out'" in problem


def test_problems_that_are_left_out_are_shown():
    config = split_config()
    config.sampling.max_prompt_tokens = 7
    plan = batch_plan(config, **(DATA | {"n_left_out": (5, 2)}))
    assert (plan.n_train, plan.n_train_left_out, plan.n_heldout_left_out) == (48, 5, 2)
    (row,) = [line for line in plan_table(plan).splitlines() if "left out" in line]
    assert " ".join(row.split()) == "left out 7 prompts over 7 tokens: 5 training problems, 2 held out"
    assert "left out" not in plan_table(batch_plan(config, **DATA))


def test_rollouts_beyond_the_positions_of_the_model_are_refused():
    assert batch_plan(split_config(), **(DATA | {"max_positions": 11})).max_step_tokens == 32 * 11  # 7 + 4 fit
    (problem,) = problems_of(split_config(), max_positions=10)
    assert "prompts of up to 7 tokens and sampling.max_new_tokens=4 make 11, more than the 10 positions" in problem
    # 10 - 7 tokens are left for a completion, 10 - 4 for a prompt
    assert "use sampling.max_new_tokens=3 or less, or sampling.max_prompt_tokens=6 with" in problem
    (problem,) = problems_of(split_config(), max_positions=4)
    assert problem.endswith("use fewer of both")


def test_devices_that_do_not_divide_a_backward_pass_are_refused():
    (problem,) = problems_of(split_config(), n_devices=3)
    assert problem.startswith("3 devices cannot share the 2 prompts of one backward pass evenly")
    assert problem.endswith("use placement.data=2")  # no multiple of 3 divides the minibatch
    assert batch_plan(split_config(), **(DATA | {"n_devices": 2})).n_devices == 2


def test_the_number_of_devices_that_a_message_names_does_work():
    for n_prompts, n_devices in itertools.product(range(1, 49), range(2, 9)):
        config = c.TrainConfig(batch=c.BatchConfig(n_prompts=n_prompts), eval=c.EvalConfig(n_problems=16))
        if n_prompts % n_devices:
            (problem,) = problems_of(config, n_devices=n_devices)
            shared = int(problem.split("placement.data=")[1])
            assert 1 <= shared < n_devices
            assert batch_plan(config, **(DATA | {"n_devices": shared})).n_devices == shared


def test_the_micro_batch_that_a_message_names_does_work():
    n_named = 0
    for n_prompts, microbatch, n_devices in itertools.product((12, 16, 30), (1, 2, 3, 5, 6, 15), range(2, 9)):
        config = c.TrainConfig(
            batch=c.BatchConfig(n_prompts=n_prompts, microbatch_prompts=microbatch), eval=c.EvalConfig(n_problems=16)
        )
        if n_prompts % microbatch == 0 and microbatch % n_devices:
            (problem,) = problems_of(config, n_devices=n_devices)
            if "batch.microbatch_prompts=" in problem:
                config.batch.microbatch_prompts = int(problem.split("batch.microbatch_prompts=")[1].split()[0])
                validate(config)
                assert batch_plan(config, **(DATA | {"n_devices": n_devices})).n_devices == n_devices
                n_named += 1
    assert n_named > 20


def test_all_that_does_not_fit_is_said_at_once():
    config = split_config()
    config.sampling.max_prompt_tokens = 6
    devices, *others = problems_of(config, n_devices=3, n_train=7, n_heldout=15, n_long_prompts=1)
    assert devices.startswith("3 devices cannot share the 2 prompts")
    named = [problem.split("=")[0] for problem in others]
    assert named == ["batch.n_prompts", "eval.n_problems", "sampling.max_prompt_tokens"]


@pytest.mark.parametrize("updates_per_step", [1, 2, 3, 5])
@pytest.mark.parametrize("every_updates", [1, 2, 3, 4, 7, 100])
def test_something_is_due_at_the_first_step_end_at_or_after_each_multiple(updates_per_step, every_updates):
    n_steps = 9
    config = stepping_config(updates_per_step, n_steps=n_steps, every_updates=every_updates)
    update, due = 0, []
    for step in range(n_steps):  # slowly, one update after the other
        is_step_due = step == n_steps - 1
        for _ in range(updates_per_step):
            update += 1
            is_step_due = is_step_due or update % every_updates == 0
        due.append(is_step_due)
    assert [is_due(step, every_updates, config) for step in range(n_steps)] == due


@pytest.mark.parametrize("updates_per_step", [1, 2, 3, 5])
@pytest.mark.parametrize("every_updates", [1, 2, 3, 4, 7, 100])
def test_noise_is_due_at_the_first_step_start_at_or_after_each_multiple(updates_per_step, every_updates):
    n_steps = 9
    config = stepping_config(updates_per_step, n_steps=n_steps, every_updates=every_updates)
    update, is_owed, due = 0, False, []
    for _ in range(n_steps):
        is_owed = is_owed or update % every_updates == 0
        due.append(is_owed)
        is_owed = False
        for index in range(updates_per_step):
            is_owed = is_owed or (index > 0 and update % every_updates == 0)
            update += 1
    assert [is_noise_due(step, config) for step in range(n_steps)] == due


def test_something_done_every_0_updates_is_never_due():
    config = stepping_config(2, n_steps=4, every_updates=0)
    assert not any(is_due(step, 0, config) for step in range(4))
    assert not any(is_noise_due(step, config) for step in range(4))
    config.eval.every_updates, config.eval.n_problems = 0, 16
    assert batch_plan(config, **DATA).n_evaluations == 1  # the start
    assert batch_plan(config, **DATA).n_noise_measurements == 0


def test_a_large_share_of_the_data_in_one_batch_is_warned_about():
    few = batch_plan(split_config(), **(DATA | {"n_train": 32}))  # 8 is a quarter of 32
    assert plan_warnings(few) == []
    (warning,) = plan_warnings(batch_plan(split_config(), **(DATA | {"n_train": 31})))
    assert "n_prompts=8 is more than a quarter of the 31 training problems" in warning


def test_many_passes_over_the_data_are_warned_about():
    config = split_config()
    config.n_updates = 80  # 20 steps of 8 prompts: 5 passes over 32 problems
    assert plan_warnings(batch_plan(config, **(DATA | {"n_train": 32}))) == []
    config.n_updates = 84
    (warning,) = plan_warnings(batch_plan(config, **(DATA | {"n_train": 32})))
    assert "every training problem is seen 5.2 times" in warning  # 168 / 32 = 5.25


@pytest.mark.parametrize(
    ("line_of", "number", "how"),
    [
        ("rollouts per step", "32", "8 prompts x 4 rollouts"),
        ("updates per step", "4", "minibatches of 4 prompts"),
        ("rollouts per update", "16", ""),
        ("backward passes per update", "2", "micro-batches of 2 prompts on 1 device(s)"),
        ("steps / updates", "3 / 12", ""),
        ("rollouts in all", "96", "24 prompts"),
        ("passes over the data", "0.50", "48 training problems, 20 held out"),
        ("tokens per step, at most", "352", "7 prompt + 4 completion"),
        ("evaluations", "3", "the start included"),
        ("noise measurements", "2", ""),
        ("parameters", "1000", ""),
        ("parameters trained", "250", "25%, in an adapter"),
    ],
)
def test_the_table_has_a_line_for_each_quantity(line_of, number, how):
    lines = plan_table(batch_plan(split_config(), **DATA)).splitlines()
    (line,) = [line for line in lines if line.strip().startswith(line_of + "  ")]
    assert line.split() == f"{line_of} {number} {how}".split()


def test_without_an_adapter_all_parameters_are_trained():
    lines = plan_table(batch_plan(split_config(), **(DATA | {"n_trained_parameters": 1_000}))).splitlines()
    assert lines[-1].split() == ["parameters", "trained", "1000", "all"]
