"""The policy a run starts from: supervised on demonstrations that are right only part of the time.

The result depends on the config and this code alone; it is cached under a hash of both and
shared by all points of a study and by re-runs.
"""

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

import rlvr_jax
from rlvr_jax.models.spec import ModelSpec, Params, initial_params, parameter_table
from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.sampling.padding import is_completion_token, pad_right
from rlvr_jax.tasks.problem import Task
from rlvr_jax.train.assemble import Parts, root_key
from rlvr_jax.train.completion_logprobs import completion_logprobs
from rlvr_jax.train.config import TrainConfig, WarmstartConfig, flat_fields
from rlvr_jax.train.optimizer import adamw, learning_rate
from rlvr_jax.train.placement import place_batch, replicated

log = logging.getLogger(__name__)

_CODE_THAT_MATTERS = ("tasks", "models", "algo/token_logprobs.py", "sampling/padding.py")
_CODE_THAT_MATTERS += tuple(
    f"train/{name}.py" for name in ("assemble", "completion_logprobs", "optimizer", "placement", "warmstart")
)
_PACKAGES_THAT_MATTER = ("jax", "jaxlib", "numpy", "optax")
Progress = Callable[[int, int, str], None]  # (done, total, what)


def starting_params(config: TrainConfig, parts: Parts, cache_folder: Path, *, progress: Progress) -> Params:
    """The weights at update 0, on the mesh: from the cache, else trained now and cached.

    Raises ValueError when a cached file does not hold the parameters of this model.
    """
    if not config.warmstart.enabled:
        params = initial_params(parts.spec, root_key(config.warmstart.seed, "parameters"))
        return jax.device_put(params, replicated(parts.mesh))
    path = cache_folder / f"{warmstart_hash(config, parts.task)}.safetensors"
    if path.exists():
        log.info("warm start: %s", path)
        params = load_params(path, parts.spec)
    else:
        params = _train(config.warmstart, parts, use_remat=config.model.use_remat, progress=progress)
        try:
            save_params(path, params)
        except (OSError, safetensors.SafetensorError) as error:  # a full disk or one that may not be written
            log.warning("warm start: could not be kept for the next run as %s (%s)", path, error)
        else:
            log.info("warm start: saved as %s", path)
    return jax.device_put(params, replicated(parts.mesh))


def warmstart_hash(config: TrainConfig, task: Task) -> str:
    """16 hex digits over what the warm start depends on: settings, data, code, package versions, devices, cores."""
    settings = {
        name: value
        for name, value in flat_fields(config).items()
        if name.startswith(("task.", "model.", "warmstart.", "placement.", "sampling.max_new", "sampling.max_prompt"))
        and not name.startswith(("task.reward", "task.correct"))  # demonstrations are not graded
    }
    versions = [metadata.version(name) for name in _PACKAGES_THAT_MATTER]
    machine = [task.fingerprint, versions, jax.devices()[0].device_kind, jax.device_count(), os.cpu_count()]
    digest = hashlib.sha256(json.dumps([settings, machine], sort_keys=True).encode())
    return hashlib.sha256(digest.digest() + _code_digest()).hexdigest()[:16]


@functools.cache  # once per process: the code that runs is the code that was imported
def _code_digest() -> bytes:
    digest = hashlib.sha256()
    package = Path(rlvr_jax.__file__).parent
    for part in _CODE_THAT_MATTERS:
        for file in sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]:
            digest.update(file.read_bytes())
    return digest.digest()


def params_hash(params: Params) -> str:
    """16 hex digits over names and bytes of all parameters."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flax.traverse_util.flatten_dict(params, sep="/").items()):
        digest.update(path.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def save_params(path: Path, params: Params) -> None:
    """One safetensors file; a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")
    partial = path.with_suffix(f".{os.getpid()}.partial")
    safetensors.numpy.save_file({name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}, partial)
    partial.replace(path)


def load_params(path: Path, spec: ModelSpec) -> Params:
    """Parameters written by `save_params`. Raises ValueError naming what is missing, mis-shaped or unreadable."""
    try:
        flat = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); delete it to train it again") from error
    wanted = {name: row.shape for name, row in parameter_table(spec).items()}
    found = {name: leaf.shape for name, leaf in flat.items()}
    if found != wanted:
        different = sorted(set(wanted.items()) ^ set(found.items()))
        raise ValueError(f"{path} does not hold this model's parameters; they differ in {different[:6]}")
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _train(config: WarmstartConfig, parts: Parts, *, use_remat: bool, progress: Progress) -> Params:
    schedule = learning_rate(
        peak_lr=config.peak_lr,
        warmup_updates=config.warmup_updates,
        schedule="cosine",
        decay_updates=config.n_updates,
    )
    optimizer = adamw(parts.spec, schedule, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.01, clip_norm=1.0)
    width = {"prompt": parts.plan.max_prompt_tokens, "completion": parts.plan.max_new_tokens}

    def loss(params: Params, demos: dict[str, jax.Array]) -> jax.Array:
        logprob_NT, _ = completion_logprobs(
            params,
            parts.spec,
            demos["prompt"],
            demos["prompt_length"],
            demos["completion"],
            temperature=1.0,
            compute_dtype=parts.compute_dtype,
            use_remat=use_remat,
        )
        is_trained_NT = is_completion_token(demos["completion_length"], width=width["completion"])
        return -jnp.where(is_trained_NT, logprob_NT, 0.0).sum() / is_trained_NT.sum()

    def update(params: Params, opt_state: optax.OptState, demos: dict[str, jax.Array]):
        loss_value, grads = jax.value_and_grad(loss)(params, demos)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss_value

    jitted = jax.jit(update, donate_argnums=(0, 1))
    params = jax.device_put(initial_params(parts.spec, root_key(config.seed, "parameters")), replicated(parts.mesh))
    opt_state = optimizer.init(params)
    started = time.monotonic()
    for step in range(config.n_updates):
        rng = np.random.default_rng([config.seed, step])
        p_correct = 1.0 if step < config.n_correct_updates else config.p_correct
        demos = demonstrations(parts.task, parts.tokenizer, rng, n=config.batch_size, p_correct=p_correct, **width)
        params, opt_state, loss_value = jitted(params, opt_state, place_batch(demos, parts.mesh, axis=0))
        if (step + 1) % 50 == 0 or step + 1 == config.n_updates:
            progress(step + 1, config.n_updates, f"warm start, loss {float(loss_value):.3f}")
    if not np.isfinite(float(loss_value)):
        raise FloatingPointError(
            f"the warm start ended with loss {float(loss_value)}; lower warmstart.peak_lr={config.peak_lr}"
        )
    log.info("warm start: %d updates in %.0f s", config.n_updates, time.monotonic() - started)
    return params


def demonstrations(
    task: Task,
    tokenizer: CharTokenizer,
    rng: np.random.Generator,
    *,
    n: int,
    p_correct: float,
    prompt: int,
    completion: int,
) -> dict[str, np.ndarray]:
    """n random training problems with a demonstration each, padded to `prompt` and `completion` tokens."""
    problems = [task.train_problem(int(i)) for i in rng.integers(task.n_train, size=n)]
    texts = [task.demonstration(problem, rng, p_correct=p_correct) for problem in problems]
    completions = [tokenizer.encode_completion(text) for text in texts]
    prompt_NS, prompt_length_N = pad_right(
        [tokenizer.encode_prompt(p.prompt) for p in problems], width=prompt, pad_id=tokenizer.pad_id
    )
    completion_NT, completion_length_N = pad_right(completions, width=completion, pad_id=tokenizer.pad_id)
    return {
        "prompt": prompt_NS,
        "prompt_length": prompt_length_N,
        "completion": completion_NT,
        "completion_length": completion_length_N,
    }
