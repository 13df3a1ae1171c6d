"""One point of a study, from its first prompt to its last checkpoint."""

import contextlib
import logging
import math
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.models.spec import Params
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Problem
from rlvr_jax.train.assemble import Parts, root_key
from rlvr_jax.train.batch_plan import is_due, is_noise_due, plan_warnings
from rlvr_jax.train.checkpoint import Checkpoints
from rlvr_jax.train.collect import (
    Collection,
    build_batch,
    in_microbatches,
    prompts_of_step,
    reward_metrics,
    sample_prompts,
    sample_rows,
    score,
)
from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields
from rlvr_jax.train.log import EVALS_FILE, RunLog
from rlvr_jax.train.perf import compile_seconds, step_metrics
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.run_directory import (
    FINISHED,
    RUNNING,
    STOPPED,
    check_same_config,
    read_run,
    warn_if_machine_changed,
    write_run,
)
from rlvr_jax.train.state import NoiseAverages, TrainState, initial_state
from rlvr_jax.train.step import Batch
from rlvr_jax.train.warmstart import params_hash

log = logging.getLogger(__name__)


class Stopped(Exception):
    """A signal asked the run to end; its state is saved."""


class Counters(NamedTuple):
    """How far a run is, on the host. Saved with every checkpoint."""

    step: int
    update: int
    prompts: int
    rollouts: int
    tokens: int
    seconds: float


def run_point(
    config: TrainConfig,
    parts: Parts,
    starting_params: Params,
    folder: Path,
    *,
    stop: threading.Event,
    progress: Progress,
) -> str:
    """Trains one point to its last update, from its newest checkpoint if it has one; "skipped" or "finished".

    Raises:
        ConfigError: the directory was started with other settings or another starting policy.
        FloatingPointError: a loss or gradient was not finite; the state before it is saved.
        Stopped: `stop` was set; the state is saved.
    """
    start_hash = params_hash(starting_params)
    earlier = read_run(folder)
    if earlier is not None:
        check_same_config(config, earlier, folder)
        if earlier["starting_params"] != start_hash:
            raise ConfigError(
                [
                    f"{folder} was started from other weights ({earlier['starting_params']}) than the warm start now "
                    f"gives ({start_hash}), as happens when the code, jax or the machine changed; "
                    "delete the directory or choose another --runs=DIR"
                ]
            )
        if earlier["status"] == FINISHED and earlier["config"]["n_updates"] == config.n_updates:
            return "skipped"
    run = _Run(config, parts, starting_params, folder, start_hash, earlier)
    try:
        run.train(stop=stop, progress=progress)
    finally:
        run.close()
    return FINISHED


class _Run:
    """The loop's state: device arrays, counters, open files."""

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        starting_params: Params,
        folder: Path,
        start_hash: str,
        earlier: dict[str, Any] | None,
    ):
        self.config, self.parts, self.folder, self.start_hash = config, parts, folder, start_hash
        self.programs = build_programs(config, parts)
        self.rollout_key = root_key(config.seed, "rollouts")
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            keep_newest=config.checkpoint.keep_newest,
            keep_best=config.checkpoint.keep_best,
        )
        fresh = jax.device_put(initial_state(starting_params, self.programs.optimizer), replicated(parts.mesh))
        restored = self.checkpoints.restore_newest(fresh)
        self.state: TrainState = restored[0] if restored else fresh
        self.counters = Counters(**restored[1]) if restored else Counters(0, 0, 0, 0, 0, 0.0)
        self.is_resumed = restored is not None
        # without a KL penalty no second copy of the weights is kept
        self.reference_params = starting_params if config.algo.kl_coef > 0 else None
        self.log = RunLog(folder, last_update=self.counters.update if restored else -1)
        evals = list(read_rows(folder / EVALS_FILE))  # after the log has cut what the checkpoint does not know
        self.last_evaluation = (
            {name: evals[-1][name] for name in evals[-1] if name.startswith("eval/")} if evals else {}
        )
        self.best_accuracy = max((row[self._target_name] for row in evals), default=-math.inf)
        self.noise_before: NoiseAverages | None = None  # where the step in flight measures: what it started from
        if earlier is not None and restored:
            warn_if_machine_changed(earlier)
        self.write_run(RUNNING)

    def write_run(self, status: str, **more: Any) -> None:
        write_run(
            self.folder, self.config, self.parts.plan, status=status, starting_params_hash=self.start_hash, **more
        )

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # the second closes even if the first cannot
            closing.callback(self.checkpoints.close)
            closing.callback(self.log.close)

    def train(self, *, stop: threading.Event, progress: Progress) -> None:
        config, n_steps = self.config, self.parts.plan.n_steps
        for warning in plan_warnings(self.parts.plan):
            log.warning(warning)
        if self.is_resumed:
            progress.line(f"resuming after update {self.counters.update}")
        else:
            self._evaluate()
            progress.line(self._summary())
        started_s, compiled_s = time.monotonic(), compile_seconds()
        pending = self._dispatch_sampling() if self.counters.step < n_steps else None
        jax.block_until_ready(pending and pending[1])
        sample_s = time.monotonic() - started_s - (compile_seconds() - compiled_s)
        while self.counters.step < n_steps:
            step, before = self.counters.step, self.counters
            started_s, compiled_s = time.monotonic(), compile_seconds()
            collection = score(self.parts.task, *pending, self.parts.tokenizer)
            scored_s = time.monotonic()
            dispatched = self._dispatch_updates(collection, pending[1])
            self.counters = self._counters_after(collection)
            # the device draws the next rollouts while the host fetches and writes these
            pending = self._dispatch_sampling() if self.counters.step < n_steps else None
            fetched = jax.device_get(dispatched)
            trained_s, compile_s = time.monotonic(), compile_seconds() - compiled_s
            perf = step_metrics(
                self.parts.plan,
                sample_s=sample_s,
                reward_s=scored_s - started_s,
                train_s=trained_s - scored_s - compile_s,
                compile_s=compile_s,
                n_tokens=collection.n_tokens,
            )
            self.counters = self.counters._replace(seconds=before.seconds + sample_s + trained_s - started_s)
            self._write_rows(before, fetched, reward_metrics(collection) | perf)
            self._write_samples(collection, step)
            progress.update(self.counters.update, config.n_updates, f"reward {collection.reward_PR.mean():.3f}")
            if pending is not None:
                jax.block_until_ready(pending[1])
                sample_s = time.monotonic() - trained_s

            is_last = self.counters.step == n_steps
            is_best, accuracy = False, None
            if is_due(step, config.eval.every_updates, config):
                self._evaluate()
                progress.line(self._summary())
                accuracy = self.last_evaluation[self._target_name]
                is_best = config.checkpoint.keep_best > 0 and accuracy > self.best_accuracy
                self.best_accuracy = max(accuracy, self.best_accuracy)
            if is_due(step, config.checkpoint.every_updates, config) or is_best or is_last or stop.is_set():
                self._save(self.counters, accuracy=accuracy)
            if stop.is_set() and not is_last:
                self.checkpoints.wait()
                self.write_run(STOPPED, stopped_after_update=self.counters.update)
                raise Stopped(f"saved {self.folder} after update {self.counters.update}")
        self._finish()

    def _dispatch_sampling(self) -> tuple[list[Problem], Rollouts]:
        config, first = self.config, self.counters.prompts
        problems = prompts_of_step(self.parts.task, first, n_prompts=config.batch.n_prompts, seed=config.seed)
        return problems, sample_prompts(
            self.programs.sample,
            self.state.params,
            problems,
            range(first, first + config.batch.n_prompts),
            self.rollout_key,
            self.parts.tokenizer,
            self.parts.mesh,
            max_prompt_tokens=self.parts.plan.max_prompt_tokens,
        )

    def _dispatch_updates(self, collection: Collection, rollouts: Rollouts) -> list[dict[str, jax.Array]]:
        """Runs all updates of a step; one dict of device scalars per update, not waited for."""
        config = self.config
        batch = self._batch(collection, rollouts)
        noise, self.noise_before = {}, None
        if is_noise_due(self.counters.step, config):
            self.noise_before = jax.device_get(self.state.noise)  # a copy: the step donates its state
            averages, noise = self.programs.measure_noise(self.state.params, self.state.noise, batch)
            self.state = self.state.replace(noise=averages)
        metrics = []
        for rows_P in minibatch_rows(config, self.counters.step):
            minibatch = jax.tree.map(lambda leaf, rows_P=rows_P: leaf[rows_P], batch)
            self.state, of_update = self.programs.train_step(
                self.state,
                in_microbatches(minibatch, self.parts.mesh, microbatch_prompts=config.microbatch_prompts),
            )
            metrics.append(of_update | noise)
            noise = {}
        return metrics

    def _batch(self, collection: Collection, rollouts: Rollouts) -> Batch:
        config = self.config
        batch = build_batch(
            rollouts,
            collection.reward_PR,
            kind=config.algo.advantage,
            ddof=config.algo.std_ddof,
            eps=config.algo.std_eps,
        )
        placed = in_microbatches(batch, self.parts.mesh, microbatch_prompts=config.microbatch_prompts)

        def logprobs(params: Params) -> np.ndarray:
            logprob_MNRT = np.asarray(self.programs.logprob_pass(params, placed))
            return logprob_MNRT.reshape(-1, *logprob_MNRT.shape[2:])

        if config.updates_per_step > 1:
            batch = batch.replace(old_logprob_PRT=logprobs(self.state.params))
        if self.reference_params is not None:
            batch = batch.replace(reference_logprob_PRT=logprobs(self.reference_params))
        return batch

    def _counters_after(self, collection: Collection) -> Counters:
        counters, plan = self.counters, self.parts.plan
        return Counters(
            step=counters.step + 1,
            update=counters.update + plan.updates_per_step,
            prompts=counters.prompts + plan.n_prompts,
            rollouts=counters.rollouts + plan.rollouts_per_step,
            tokens=counters.tokens + collection.n_tokens,
            seconds=counters.seconds,
        )

    def _write_rows(self, before: Counters, fetched: list[dict[str, np.ndarray]], shared: dict[str, float]) -> None:
        """One row per update of the step. Raises FloatingPointError at the first that was not applied."""
        for index, metrics in enumerate(fetched):
            update = before.update + index + 1
            if not metrics.pop("is_applied"):
                self._stop_at_nonfinite(before, update, index, metrics)
            values = {name: float(value) for name, value in metrics.items()}
            self.log.metrics(self.counters._asdict() | {"update": update} | shared | values)

    def _stop_at_nonfinite(self, before: Counters, update: int, index: int, metrics: dict[str, np.ndarray]) -> None:
        what = ", ".join(f"{name}={float(metrics[name])}" for name in ("loss/total", "optim/grad_norm"))
        saved = f"the last checkpoint in {self.folder} continues from before it"
        if index == 0:  # the frozen state is that of a step's end; later ones lie inside a step
            self.state = self.state.replace(n_nonfinite=jnp.zeros_like(self.state.n_nonfinite))
            if self.noise_before is not None:
                noise = jax.device_put(self.noise_before, replicated(self.parts.mesh))
                self.state = self.state.replace(noise=noise)
            self._save(before, accuracy=None)
            self.checkpoints.wait()
            saved = f"the state after update {before.update} is saved in {self.folder}"
        self.write_run(STOPPED, nonfinite_at_update=update)
        raise FloatingPointError(
            f"update {update} was not finite ({what}) and was not applied; {saved}. A run keeps its settings: start "
            f"another with --runs=DIR and less than optimizer.peak_lr={self.config.optimizer.peak_lr}"
        )

    def _write_samples(self, collection: Collection, step: int) -> None:
        config = self.config.log
        if not is_due(step, config.rollouts_every_updates, self.config):
            return
        update = self.counters.update
        self.log.rollouts(sample_rows(collection, update, n_prompts=config.rollouts_n_prompts), update=update)
        self.log.histogram("completions/length", collection.completion_length_PR.reshape(-1), update=update)
        self.log.histogram("reward/prompt_mean", collection.reward_PR.mean(axis=1), update=update)

    def _evaluate(self) -> None:
        started_s = time.monotonic()
        self.last_evaluation = self.programs.evaluate(self.state.params)
        row = self.counters._asdict() | self.last_evaluation | {"perf/eval_s": time.monotonic() - started_s}
        self.log.evaluation(row)

    @property
    def _target_name(self) -> str:
        return f"eval/{self.parts.task.name}/{self.config.eval.target_metric}"

    def _summary(self) -> str:
        short = {name.rsplit("/", 1)[-1]: value for name, value in self.last_evaluation.items()}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in short.items() if not name.endswith("_se"))
        return f"update {self.counters.update}/{self.config.n_updates}, held-out {shown}"

    def _save(self, counters: Counters, *, accuracy: float | None) -> None:
        self.log.flush()  # rows first: a checkpoint is never ahead of them
        self.checkpoints.save(self.state, counters._asdict(), update=counters.update, accuracy=accuracy)

    def _finish(self) -> None:
        self.checkpoints.wait()
        self.log.hparams(flat_fields(self.config), self.last_evaluation, update=self.counters.update)
        self.write_run(FINISHED, final=self.last_evaluation, counters=self.counters._asdict())


def minibatch_rows(config: TrainConfig, step: int) -> list[np.ndarray]:
    """Which prompts of the collection each update of a step takes: whole groups, every one once per epoch.

    In collection order when a step is one update, else in an order seeded by (seed, step, epoch).
    """
    n_prompts, n_updates = config.batch.n_prompts, config.updates_per_step
    if n_updates == 1:
        return [np.arange(n_prompts)]
    orders = [
        np.random.default_rng([config.seed, step, epoch]).permutation(n_prompts)
        for epoch in range(config.batch.epochs_per_buffer)
    ]
    return [rows for order in orders for rows in order.reshape(-1, config.minibatch_prompts)]
