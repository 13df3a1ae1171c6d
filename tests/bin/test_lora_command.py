"""bin/train and bin/evaluate with an adapter, as a person runs them."""

import re

import pytest
from run_command import run

CONFIG = """
from rlvr_jax.train import config as c

def get_config(arg=None):
    return c.TrainConfig(
        study="tiny", point="only", n_updates=2,
        task=c.TaskConfig(name="digits", operators="+", operand_max=4),
        model=c.ModelConfig(width=16, n_layers=2, n_heads=2, n_kv_heads=1, mlp_width=32),
        warmstart=c.WarmstartConfig(n_updates=60, n_correct_updates=0, batch_size=64, peak_lr=1e-2, warmup_updates=10),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=4),
        optimizer=c.OptimizerConfig(peak_lr=1e-3),
        eval=c.EvalConfig(every_updates=2, n_problems=3, n_samples=4, k=(1, 4)),
    )
"""
ADAPTER = ("--config.lora.enabled=true", "--config.lora.rank=4", "--config.lora.targets=('query', 'out', 'up')")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.py").write_text(CONFIG)
    return folder


def test_an_adapter_is_trained_evaluated_and_never_taken_for_another_policy(study):
    code, said = run(study, "train", "--config=tiny.py", *ADAPTER)
    assert code == 0, said
    assert re.search(rf"parameters trained +{4 * 2 * (32 + 32 + 48)} ", said)  # query and out 16 + 16, up 16 + 32
    checkpoint = "--checkpoint=runs/tiny/only"
    code, said = run(study, "evaluate", "--config=tiny.py", *ADAPTER, checkpoint)
    assert code == 0, said
    assert "runs/tiny/only, update 2: 3 held-out problems" in said
    code, said = run(study, "evaluate", "--config=tiny.py", checkpoint)
    assert code == 1
    assert "is of another model: lora.enabled was True and is False now" in said


def test_an_adapter_that_cannot_be_is_refused_in_one_line(study):
    code, said = run(study, "train", "--config=tiny.py", "--config.lora.rank=0")
    assert (code, said) == (1, "bin/train: lora.rank=0 must be at least 1\n")
