import json
import math

import numpy as np
import pytest

from rlvr_jax.analysis.noise_series import noise_series, study_noise
from rlvr_jax.analysis.read_runs import find_runs

CONFIG = {"batch.n_prompts": 8, "batch.n_rollouts": 4, "task.name": "digits", "eval.targets": [0.5]}


def written_run(folder, rows, **config):
    folder.mkdir(parents=True)
    fields = {"study": "s", "point": folder.name, "status": "finished", "plan": {}, "config": CONFIG | config}
    (folder / "run.json").write_text(json.dumps(fields))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (record,) = find_runs([folder])
    return record


ROWS = [
    {"update": 1, "step": 1, "gns/trace_cov": 20.0, "gns/grad_sq": 2.0, "gns/b_noise_prompts": 10.0,
     "gns/prompt_var": 5.0, "gns/zeta1": 6.0, "gns/zeta2": 30.0},
    {"update": 2, "step": 1},
    {"update": 3, "step": 2, "gns/trace_cov": 30.0, "gns/grad_sq": -1.0, "gns/b_noise_prompts": None,
     "gns/prompt_var": 7.0, "gns/zeta1": 6.0, "gns/zeta2": 30.0, "gns/adam/trace_cov": 3.0, "gns/adam/grad_sq": 0.5},
    {"update": 4, "step": 2, "gns/trace_cov": None, "gns/grad_sq": None},
]  # fmt: skip


def test_measured_updates_alone_are_in_it_and_negative_signals_stay(tmp_path):
    found = noise_series(written_run(tmp_path / "a", ROWS, **{"batch.minibatch_prompts": 4}))
    np.testing.assert_array_equal(found.updates, [1, 3])
    np.testing.assert_array_equal(found.steps, [1, 2])  # two updates per collection
    np.testing.assert_array_equal(found.grad_sq, [2, -1])
    np.testing.assert_array_equal(found.is_resolved, [True, False])
    np.testing.assert_allclose(found.v_rollout, [9, 9])  # 4 x 2 / 12 x 6 + 2 / 12 x 30
    assert math.isnan(found.adam_trace_cov[0])
    assert found.adam_grad_sq[1] == 0.5
    assert (found.run, found.why_no_split) == ("s/a", "")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"batch.n_rollouts": 2}, "from 4 rollouts per prompt on"),
        ({"noise.decompose": False}, "noise.decompose=false"),
        ({"algo.kl_coef": 0.001, "algo.kl_in": "loss"}, "KL or entropy"),
        ({"algo.entropy_coef": 0.01}, "KL or entropy"),
        ({"algo.kl_coef": 0.001, "algo.kl_in": "reward"}, ""),
    ],
)
def test_settings_say_whether_the_split_is_of_the_whole_gradient(tmp_path, config, why):
    found = noise_series(written_run(tmp_path / "a", ROWS, **config)).why_no_split
    assert why in found
    assert bool(why) == bool(found)


def test_a_run_that_measured_nothing_is_empty(tmp_path):
    found = study_noise([written_run(tmp_path / "a", ROWS[1:2])])[0]
    assert (found.run, len(found.updates), len(found.trace_cov)) == ("a", 0, 0)
