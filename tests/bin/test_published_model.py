"""A published checkpoint from its folder into a run: trained, resumed, evaluated. Nothing is downloaded."""

import json
import shutil
from pathlib import Path

import pytest
from published_folder import save_model, save_published, save_tokenizer
from run_command import exact_rows
from run_command import run as run_online

CONFIG = """
from rlvr_jax.train import config as c

def get_config(arg="olmo2"):
    return c.TrainConfig(
        study="published", point="only", n_updates=2,
        task=c.TaskConfig(
            name="jsonl", path="sums.jsonl", template="{question}", answer_field="answer",
            rewards=("exact", "my_rewards:is_odd"),
        ),
        model=c.ModelConfig(name=arg),
        warmstart=c.WarmstartConfig(enabled=False),
        batch=c.BatchConfig(n_prompts=4, n_rollouts=4),
        sampling=c.SamplingConfig(max_new_tokens=6, max_prompt_tokens=24, long_prompts="leave_out"),
        optimizer=c.OptimizerConfig(warmup_updates=0),
        eval=c.EvalConfig(every_updates=0, n_problems=3, n_samples=2, k=(1, 2)),
        checkpoint=c.CheckpointConfig(every_updates=1),
        placement=c.PlacementConfig(data=1),
    )
"""
REWARDS = """
def is_odd(completions):
    return [float(len(text) % 2) for text in completions]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with two models, data of which three prompts are long, a reward and a config."""
    folder = tmp_path_factory.mktemp("study")
    save_published(folder / "olmo2", "olmo2")
    save_published(folder / "qwen2", "qwen2", seed=1)
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(8) for b in range(8)]
    rows += [{"question": "x" * 40 + str(i), "answer": "0"} for i in range(3)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_rewards.py").write_text(REWARDS)
    (folder / "published.py").write_text(CONFIG)
    return folder


def run(study: Path, program: str, *arguments: str) -> tuple[int, str]:
    return run_online(study, program, *arguments, HF_HUB_OFFLINE="1", HF_HOME=str(study / "hub"))


@pytest.fixture(scope="module")
def trained(study):
    code, said = run(study, "train", "--config=published.py:olmo2", "--runs=whole")
    assert code == 0, said
    return study / "whole" / "published" / "only", said


def test_a_folder_is_trained_and_the_plan_says_what_was_left_out(trained):
    folder, said = trained
    rows = exact_rows(folder)
    assert [row["update"] for row in rows] == [1, 2]
    assert all(row["optim/grad_norm"] > 0 for row in rows)
    assert "left out" in said
    record = json.loads((folder / "run.json").read_text())
    assert record["plan"]["n_train_left_out"] + record["plan"]["n_heldout_left_out"] == 3
    assert record["plan"]["n_train"] + record["plan"]["n_heldout"] == 64
    assert record["tokenizer"]["eos_ids"] == [1, 2]
    # V, D, F, H * K, G * K of the files: embedding, head, last norm; per layer four matrices of attention with their
    # two norms, three of the mlp, two norms
    V, D, F, HK, GK = 320, 16, 32, 16, 8
    per_layer = 2 * D * HK + 2 * D * GK + HK + GK + 3 * D * F + 2 * D
    assert record["plan"]["n_parameters"] == 2 * V * D + D + 2 * per_layer
    assert "PyTorch" not in said


def test_a_run_goes_on_where_it_stopped(study, trained):
    code, said = run(study, "train", "--config=published.py:olmo2", "--runs=parts", "--config.n_updates=1")
    assert code == 0, said
    code, said = run(study, "train", "--config=published.py:olmo2", "--runs=parts")
    assert code == 0, said
    assert "resuming after update 1" in said
    assert exact_rows(study / "parts" / "published" / "only") == exact_rows(trained[0])


def test_a_checkpoint_is_evaluated(study, trained):
    code, said = run(
        study, "evaluate", "--config=published.py:olmo2", f"--checkpoint={trained[0]}", "--json=found.json"
    )
    assert code == 0, said
    assert "update 2" in said
    assert 0 <= json.loads((study / "found.json").read_text())["eval/jsonl/pass@1"] <= 1


def test_an_exported_policy_is_a_published_model_itself(study, trained):
    code, said = run(study, "export", "--config=published.py:olmo2", f"--checkpoint={trained[0]}", "--out=exported")
    assert (code, "exported: olmo2 of update 2, float32" in said) == (0, True), said
    assert (study / "exported" / "tokenizer.json").read_bytes() == (study / "olmo2" / "tokenizer.json").read_bytes()
    code, said = run(study, "evaluate", "--config=published.py:exported", "--json=as_model.json")
    assert code == 0, said
    code, said = run(
        study, "evaluate", "--config=published.py:olmo2", f"--checkpoint={trained[0]}", "--json=as_checkpoint.json"
    )
    assert code == 0, said
    as_model, as_checkpoint = (json.loads((study / f"as_{kind}.json").read_text()) for kind in ("model", "checkpoint"))
    assert as_model.pop("evaluated") == "the starting policy"
    assert "update 2" in as_checkpoint.pop("evaluated")
    assert as_model == as_checkpoint
    code, said = run(study, "export", "--config=published.py:olmo2", f"--checkpoint={trained[0]}", "--out=exported")
    assert (code, "exists and is not empty" in said, "Traceback" in said) == (1, True, False)


def test_another_family_with_a_chat_template_is_trained(study):
    code, said = run(
        study, "train", "--config=published.py:qwen2", "--runs=chat", "--config.model.uses_chat_template=True"
    )
    assert code == 0, said
    rows = exact_rows(study / "chat" / "published" / "only")
    assert len(rows) == 2
    assert rows[-1]["optim/grad_norm"] > 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [("weights", "was started from other weights"), ("tokenizer", "the tokenizer changed since")],
)
def test_other_files_do_not_go_on_with_a_run(study, trained, tmp_path, changed, words):
    model, runs = study / "olmo2", study / f"other_{changed}"
    shutil.copytree(model, tmp_path / "before")
    shutil.copytree(study / "whole", runs)
    if changed == "weights":
        save_model(model, "olmo2", seed=7)
    else:
        save_tokenizer(model, pad_token="<|pad|>")
    code, said = run(study, "train", "--config=published.py:olmo2", f"--runs={runs}", "--config.n_updates=3")
    shutil.copytree(tmp_path / "before", model, dirs_exist_ok=True)
    assert (code, words in said, "Traceback" in said) == (1, True, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.model.name=./nowhere"], "is no folder here"),
        (["--config.model.name=someone/a-model"], "model.name='someone/a-model': "),
        (["--config.model.tokenizer=someone/a-tokenizer"], "model.tokenizer='someone/a-tokenizer': "),
        (["--config.sampling.long_prompts=refuse"], "exceeded by 3 of the 67 prompts"),
    ],
)
def test_bad_input_is_one_clear_message_and_a_failing_exit(study, arguments, words):
    code, said = run(study, "train", "--config=published.py:olmo2", "--runs=bad", *arguments)
    assert code == 1
    assert words in said
    assert "Traceback" not in said
