"""Against transformers, torch and peft themselves, on random models of each architecture.

make parity          (the extra `parity`; deselected by default, where test_golden.py stands in)
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from hf_cases import CONFIGS, LLAMA3, N_NEW, N_TOKENS, random_tokens, random_torch_model, torch_answers
from hf_checkpoints import whole
from test_golden import normed, states_after

from rlvr_jax.models import transformer
from rlvr_jax.models.hf_config import hf_model_of_spec, read_hf_model
from rlvr_jax.models.load_hf import load_params
from rlvr_jax.models.lora import LORA_TARGETS, LoraSpec, lora_table, merged_params, policy_params
from rlvr_jax.models.save_hf import save_hf, save_peft
from rlvr_jax.models.spec import initial_values
from rlvr_jax.sampling.rollout import build_sampler

pytestmark = pytest.mark.parity

ROPES = [
    {},
    {"rope_theta": 2000.0},
    {"rope_parameters": {"rope_theta": 700.0, "rope_type": "default"}},
    {"rope_theta": 900.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    {"rope_theta": 900.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    {"rope_parameters": {"rope_theta": 900.0, "rope_type": "llama3", **LLAMA3}},
    {"rope_theta": 300.0, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    {"rope_parameters": {"rope_theta": 300.0, "rope_type": "yarn", "factor": 2.0, "mscale": 1.5, "mscale_all_dim": 0.5,
                         "original_max_position_embeddings": 64}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.3, "truncate": False}},
]  # fmt: skip
CASES = [(family, number) for family in CONFIGS for number in range(len(ROPES))]


def random_config(family, number):
    """Sizes drawn by the number, its rotary settings, heads tied or not."""
    rng = np.random.default_rng([number, list(CONFIGS).index(family)])
    n_kv_heads, per_group = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    n_heads, head_dim = n_kv_heads * per_group, int(rng.choice([4, 8, 16]))
    config = {
        "model_type": family,
        "vocab_size": 48,
        "hidden_size": n_heads * head_dim,
        "intermediate_size": int(rng.integers(20, 60)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "max_position_embeddings": 256,
        "rms_norm_eps": float(rng.choice([1e-5, 1e-6])),
        "tie_word_embeddings": bool(rng.integers(2)),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **ROPES[number],
    }
    if family in ("llama", "qwen3"):  # where heads need not fill the width
        config["head_dim"] = int(rng.choice([4, 8, 16]))
    return config


def written(folder, config, *, dtype="float32", max_shard_size="1GB"):
    """A torch model and the folder that transformers writes, with the config as it was spelled."""
    model = random_torch_model(config, seed=1, dtype=dtype)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}))
    return model


def ours(folder):
    model = read_hf_model(folder)
    return model, jax.tree.map(jnp.asarray, load_params(folder, model, place=whole))


def logits_of(params, spec, token_NT):
    states, params = transformer.hidden_states(params, spec, token_NT, remat="none")
    return transformer.vocab_logits(params, spec, states), states


@pytest.mark.parametrize(("family", "number"), CASES)
def test_a_random_model_computes_what_it_does_in_torch(family, number, tmp_path):
    torch_model = written(tmp_path, random_config(family, number), max_shard_size="20KB" if number % 2 else "1GB")
    model, params = ours(tmp_path)
    answers = torch_answers(torch_model, random_tokens(number), n_new=0)
    logits, states = logits_of(params, model.spec, answers["tokens"])
    np.testing.assert_allclose(logits, answers["logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(states, answers["hidden"][-1], atol=1e-4, rtol=0)
    logprob = jax.nn.log_softmax(logits, axis=-1)[:, :-1]
    chosen = jnp.take_along_axis(logprob, answers["tokens"][:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, answers["logprob"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", CONFIGS)
def test_states_after_each_layer_are_those_of_torch(family, tmp_path):
    torch_model = written(tmp_path, CONFIGS[family])
    model, params = ours(tmp_path)
    answers = torch_answers(torch_model, random_tokens(6), n_new=0)
    np.testing.assert_array_equal(params["embedding"][answers["tokens"]], answers["hidden"][0])
    for n_layers, theirs in enumerate(answers["hidden"][1:-1], start=1):
        got = states_after(n_layers, params, model.spec, answers["tokens"])
        np.testing.assert_allclose(got, normed(theirs, params, model.spec), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_generation_is_that_of_transformers(family, tmp_path):
    import torch

    torch_model = written(tmp_path, random_config(family, 0))
    tokens = random_tokens(5)
    with torch.no_grad():
        theirs = torch_model.generate(
            torch.tensor(tokens).long(), do_sample=False, max_new_tokens=N_NEW, eos_token_id=None, pad_token_id=0
        )
    model, params = ours(tmp_path)
    sample = build_sampler(
        model.spec, n_rollouts=2, max_new_tokens=N_NEW, bucket_tokens=32, temperature=0.0, eos_ids=(), pad_id=0,
        compute_dtype=jnp.float32,
    )  # fmt: skip
    rollouts = sample(params, jnp.asarray(tokens), jnp.full(2, N_TOKENS), jnp.arange(2), jax.random.key(0))
    for rollout in range(2):
        np.testing.assert_array_equal(rollouts.completion_PRT[:, rollout], theirs[:, N_TOKENS:].numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", CONFIGS)
def test_what_torch_wrote_comes_back_to_torch_byte_for_byte(family, dtype, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    torch_model = written(tmp_path / "in", CONFIGS[family], dtype=dtype, max_shard_size="10KB")
    model, params = ours(tmp_path / "in")
    save_hf(tmp_path / "out", params, model, dtype=dtype, max_shard_bytes=9_000, tokenizer_files=[])
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto", local_files_only=True)
    theirs, back = torch_model.state_dict(), again.state_dict()
    assert set(theirs) == set(back)
    for key, tensor in theirs.items():
        assert tensor.dtype == back[key].dtype
        assert torch.equal(tensor.view(torch.uint8), back[key].view(torch.uint8)), key


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_of_ours_is_loaded_by_transformers(family, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    written(tmp_path / "in", CONFIGS[family])
    model, params = ours(tmp_path / "in")
    made = hf_model_of_spec(model.spec, max_positions=256, token_ids={"eos_token_id": 2, "pad_token_id": 0})
    save_hf(tmp_path / "out", params, made, dtype="float32", max_shard_bytes=2**30, tokenizer_files=[])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    tokens = random_tokens(3)
    with torch.no_grad():
        theirs = again(torch.tensor(tokens).long()).logits.numpy()
    np.testing.assert_allclose(logits_of(params, model.spec, tokens)[0], theirs, atol=1e-4, rtol=0)
    assert again.generation_config.eos_token_id == 2


@pytest.mark.parametrize("targets", [LORA_TARGETS, ("query", "value")], ids=["all matrices", "two"])
@pytest.mark.parametrize("family", CONFIGS)
def test_an_adapter_of_ours_is_the_same_policy_in_peft_and_merged(family, targets, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    written(tmp_path / "base", CONFIGS[family])
    model, frozen = ours(tmp_path / "base")
    lora = LoraSpec(rank=3, alpha=4.0, targets=targets)
    factors = initial_values(lora_table(model.spec, lora), jax.random.key(0))
    factors = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), factors)
    tokens = random_tokens(4)
    expected, _ = logits_of(policy_params(factors, frozen, lora), model.spec, tokens)
    assert np.abs(expected - logits_of(frozen, model.spec, tokens)[0]).max() > 0.1

    save_peft(tmp_path / "adapter", factors, lora, model, base_name=str(tmp_path / "base"))
    merged = merged_params(frozen, factors, lora)
    save_hf(tmp_path / "merged", merged, model, dtype="float32", max_shard_bytes=2**30, tokenizer_files=[])
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32, local_files_only=True)
    with_adapter = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    whole_model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", local_files_only=True)
    with torch.no_grad():
        for theirs in (with_adapter, whole_model):
            theirs.eval()
            logits = theirs(torch.tensor(tokens).long()).logits.numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
    of_peft = with_adapter.merge_and_unload().state_dict()
    for key, tensor in whole_model.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), of_peft[key].numpy(), atol=1e-5, rtol=0, err_msg=key)
