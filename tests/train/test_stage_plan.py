"""What a schedule of stages comes to in a run."""

import numpy as np

from rlvr_jax.tasks.schedule import Stage
from rlvr_jax.train import config as c
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.batch_plan import plan_table, plan_warnings
from rlvr_jax.train.stage_plan import stage_plans, stage_problems, stage_rows, stage_warnings

SCHEDULE = (
    Stage(0, ("easy",), (np.arange(10),), (1.0,)),
    Stage(40, ("hard", "other"), (np.arange(30), np.arange(30, 36)), (3.0, 1.0)),
)


def test_prompts_shares_and_passes_of_every_stage():  # 100 prompts: 40, then 60, of which 45 and 15
    first, last = stage_plans(SCHEDULE, total_prompts=100)
    assert (first.first_prompt, first.n_prompts, last.first_prompt, last.n_prompts) == (0, 40, 40, 60)
    assert [(pool.name, pool.share, pool.n_problems, pool.passes_over_data) for pool in last.pools] == [
        ("hard", 0.75, 30, 1.5),
        ("other", 0.25, 6, 2.5),
    ]
    assert stage_rows((first, last)) == [
        ("prompts of stage 1", 40, "from prompt 0 on: 100% 'easy', 10 problems 4.00 times"),
        ("prompts of stage 2", 45, "from prompt 40 on: 75% 'hard', 30 problems 1.50 times"),
        ("prompts of stage 2", 15, "from prompt 40 on: 25% 'other', 6 problems 2.50 times"),
    ]


def test_a_task_without_a_schedule_has_no_stages():
    assert stage_plans((), total_prompts=10) == ()


def test_a_step_that_takes_more_of_a_pool_than_it_has_is_refused():
    stages = stage_plans(SCHEDULE, total_prompts=100)
    assert stage_problems(stages, n_prompts=10) == []
    easy, other = stage_problems(stages, n_prompts=28)  # 28 of 10; 21 of 30; 7 of 6
    assert easy.startswith("batch.n_prompts=28 takes 28 prompts of 'easy' in stage 1, which has 10 training problems")
    assert "use batch.n_prompts=10 or less" in easy
    assert other.startswith("batch.n_prompts=28 takes 7 prompts of 'other' in stage 2, which has 6 training problems")
    assert "use batch.n_prompts=24 or less" in other


def test_stages_that_are_not_reached_and_problems_seen_often_are_warned_of():
    unreached, often = (
        stage_warnings(stage_plans(SCHEDULE, total_prompts=40), total_prompts=40),
        stage_warnings(stage_plans(SCHEDULE, total_prompts=184), total_prompts=184),
    )
    assert unreached == ["stage 2 begins with prompt 40, and this run draws 40: it is not reached"]
    assert len(often) == 1  # 144 * 1/4 / 6 = 6
    assert often[0].startswith("every training problem of 'other' is seen 6.0 times in stage 2")


def test_the_plan_of_a_run_shows_its_stages_and_warns_of_them_alone():
    config = c.TrainConfig(
        n_updates=40,
        task=c.TaskConfig(
            name="mixture", mixture=("arithmetic", "comparison"), mixture_weights=(3.0, 1.0), operand_max=9,
            stages=("operators=+", ""), stage_prompts=(80,),
        ),
        batch=c.BatchConfig(n_prompts=8),
        eval=c.EvalConfig(n_problems=8),
    )  # fmt: skip
    plan = assemble(config).plan
    assert [stage.n_prompts for stage in plan.stages] == [80, 240]
    assert "25% 'comparison'" in plan_table(plan)
    assert plan_warnings(plan) == stage_warnings(plan.stages, total_prompts=320)
