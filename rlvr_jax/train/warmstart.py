"""A warm start: supervised training on demonstrations that are right only part of the time.

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
from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.sampling.padding import is_completion_token, pad_right
from rlvr_jax.tasks.problem import Problem, Task
from rlvr_jax.tasks.schedule import random_problems, schedule_of
from rlvr_jax.tasks.turns import TurnTask, max_turns, replies_between
from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.completion_logprobs import build_head_plan, completion_logprobs
from rlvr_jax.train.config import TrainConfig, flat_fields
from rlvr_jax.train.optimizer import adamw, learning_rate
from rlvr_jax.train.placement import place_batch, replicated
from rlvr_jax.train.processes import arrays_of_first, is_first, on_host, told_by_first

log = logging.getLogger(__name__)

_CODE_THAT_MATTERS = ("tasks", "models", "algo/token_logprobs.py", "sampling/padding.py")
_CODE_THAT_MATTERS += tuple(
    f"train/{name}.py"
    for name in (
        "assemble",
        "completion_logprobs",
        "listed_parts",
        "long_prompts",
        "optimizer",
        "placement",
        "starting_policy",
        "warmstart",
    )
)
_SAMPLING_THAT_MATTERS = ("sampling.max_new", "sampling.max_prompt", "sampling.long_prompts")
_OF_GRADING = ("task.reward", "task.correct", "task.answer_policy", "task.answer_limit", "task.answer_workers")
_OF_GRADING += ("task.judge.", "task.code.")
_PACKAGES_THAT_MATTER = ("jax", "jaxlib", "numpy", "optax")
Progress = Callable[[int, int, str], None]  # (done, total, what)


def warm_started_params(
    config: TrainConfig, parts: Parts, first_params: Callable[[], Params], path: Path, *, progress: Progress
) -> Params:
    """The weights after the warm start, on the mesh: those kept as `path`, else trained now and kept there.

    Raises ValueError when the file does not hold the parameters of this model.
    """
    if told_by_first(path.exists()):  # other machines may have other caches
        log.info("warm start: %s", path)
        shapes = jax.eval_shape(lambda: initial_params(parts.spec, jax.random.key(0)))
        params = arrays_of_first(lambda: load_params(path, parts.spec), shapes=shapes)
    else:
        params = _train(config, parts, first_params(), progress=progress)
        try:
            save_params(path, params)
        except (OSError, safetensors.SafetensorError) as error:  # a full disk or one that may not be written
            log.warning("warm start: could not be kept for the next run as %s (%s)", path, error)
        else:
            log.info("warm start: saved as %s", path)
    return parts.layout.place(params)


def warmstart_hash(config: TrainConfig, task: Task, *, tokenizer: str, weights: str) -> str:
    """16 hex digits over what the warm start depends on: settings, data, code, package versions, devices, cores.

    Args:
        tokenizer, weights: fingerprints of what is read from files, "" where the settings say it all.
    """
    settings = {
        name: value
        for name, value in flat_fields(config).items()
        if name.startswith(("task.", "model.", "warmstart.", "placement.", *_SAMPLING_THAT_MATTERS))
        and not name.startswith(_OF_GRADING)  # demonstrations are not graded
        # memory only: a run that goes on with less must find what it started from
        and name not in ("model.remat", "model.logprob_chunk_mib", "placement.memory_gib")
    }
    versions = [metadata.version(name) for name in _PACKAGES_THAT_MATTER]
    machine = [
        task.fingerprint,
        tokenizer,
        weights,
        versions,
        jax.devices()[0].device_kind,
        jax.device_count(),
        os.cpu_count(),
    ]
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


def save_params(path: Path, params: Params) -> None:
    """One safetensors file, written by one process; a reader sees all of it or nothing."""
    flat = flax.traverse_util.flatten_dict(on_host(params), sep="/")
    if not is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _train(run: TrainConfig, parts: Parts, params: Params, *, progress: Progress) -> Params:
    config = run.warmstart
    schedule = learning_rate(
        peak_lr=config.peak_lr,
        warmup_updates=config.warmup_updates,
        schedule="cosine",
        decay_updates=config.n_updates,
    )
    table = parameter_table(parts.spec)
    adam = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "momentum_dtype": "float32"}
    optimizer = adamw(table, schedule, **adam, weight_decay=0.01, clip_norm=1.0)
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
            remat=run.model.remat,
            head_plan=build_head_plan(run.model.logprob_chunk_mib, parts.mesh),
            placement=parts.layout.of_pass,
        )
        is_trained_NT = is_completion_token(demos["completion_length"], width=width["completion"])
        if "is_action" in demos:
            is_trained_NT &= demos["is_action"]
        return -jnp.where(is_trained_NT, logprob_NT, 0.0).sum() / is_trained_NT.sum()

    def update(params: Params, opt_state: optax.OptState, demos: dict[str, jax.Array]):
        loss_value, grads = jax.value_and_grad(loss)(params, demos)
        updates, opt_state = optimizer.update(layout.constrained(grads), opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss_value

    layout = parts.layout
    opt_state = layout.built(optimizer.init, params)
    held = (layout.of(params), layout.of(opt_state), replicated(parts.mesh))
    jitted = jax.jit(update, donate_argnums=(0, 1), out_shardings=held)
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
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    n: int,
    p_correct: float,
    prompt: int,
    completion: int,
) -> dict[str, np.ndarray]:
    """n random training problems with a demonstration each, padded to `prompt` and `completion` tokens.

    Of a task with stages those of the last one, in its proportions.

    Of several turns, `is_action` says which tokens are the policy's: the replies between them are not imitated.
    """
    drawn = random_problems(rng, task.n_train, n=n, schedule=schedule_of(task))
    problems = [task.train_problem(int(i)) for i in drawn]
    is_action = {}
    if max_turns(task) > 1:
        games = [_demonstrated_turns(task, problem, tokenizer, rng, p_correct=p_correct) for problem in problems]
        completions = [[token for tokens, _ in game for token in tokens] for game in games]
        owners = [[is_own for tokens, is_own in game for _ in tokens] for game in games]
        is_action = {"is_action": pad_right(owners, width=completion, pad_id=0)[0].astype(bool)}
    else:
        texts = [task.demonstration(problem, rng, p_correct=p_correct) for problem in problems]
        completions = [tokenizer.encode_completion(text) for text in texts]
    prompts = tokenizer.encode_prompts([problem.prompt for problem in problems])
    prompt_NS, prompt_length_N = pad_right(prompts, width=prompt, pad_id=tokenizer.pad_id)
    completion_NT, completion_length_N = pad_right(completions, width=completion, pad_id=tokenizer.pad_id)
    return {
        "prompt": prompt_NS,
        "prompt_length": prompt_length_N,
        "completion": completion_NT,
        "completion_length": completion_length_N,
        **is_action,
    }


def _demonstrated_turns(
    task: TurnTask, problem: Problem, tokenizer: Tokenizer, rng: np.random.Generator, *, p_correct: float
) -> list[tuple[list[int], bool]]:
    """Turns and the replies between them as (tokens, whether they are the policy's)."""
    turns = task.demonstrated_turns(problem, rng, p_correct=p_correct)
    pieces = [(tokenizer.encode_completion(turns[0]), True)]
    for reply, turn in zip(replies_between(task, problem, turns), turns[1:], strict=True):
        pieces += [
            (tokenizer.encode_reply(reply, after=tokenizer.eos_ids[0]), False),
            (tokenizer.encode_completion(turn), True),
        ]
    return pieces
