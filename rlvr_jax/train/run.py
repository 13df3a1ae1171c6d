"""One point of a study, from its first prompt to its last checkpoint."""

import contextlib
import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.models.spec import Params
from rlvr_jax.tasks.schedule import schedule_of, stage_number
from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.batch import selection_metrics
from rlvr_jax.train.batch_plan import is_due, is_evaluation_due, plan_warnings
from rlvr_jax.train.branch import branch_state, recorded_trunk, recorded_trunks
from rlvr_jax.train.checkpoint import Checkpoints
from rlvr_jax.train.collect import Collection
from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields
from rlvr_jax.train.learner import Drawn, Learner, RewardError, Updated
from rlvr_jax.train.log import EVALS_FILE, METRICS_FILE, RunLog, SilentLog
from rlvr_jax.train.measure_noise import MeasuredArrays, measured_rollouts
from rlvr_jax.train.memory_plan import memory_warnings
from rlvr_jax.train.milestones import milestone_means, milestone_text, updates_to_targets
from rlvr_jax.train.out_of_memory import out_of_memory_explained
from rlvr_jax.train.params_hash import params_hash
from rlvr_jax.train.perf import LapTimer, step_metrics
from rlvr_jax.train.placement import placed_abstract_state
from rlvr_jax.train.processes import is_first, on_host, told_by_first, wait_for_all
from rlvr_jax.train.programs import kept_programs
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.reward_metrics import completion_rows, prompt_rows, reward_metrics
from rlvr_jax.train.run_directory import (
    FINISHED,
    RUNNING,
    STOPPED,
    check_same_config,
    is_placement_changed,
    read_run,
    tokenizer_record,
    warn_if_machine_changed,
    write_run,
)
from rlvr_jax.train.sinks import sink_openers, wandb_login_problem
from rlvr_jax.train.starting_state import starting_state
from rlvr_jax.train.stop import Stopped, StopRequest
from rlvr_jax.train.validate_algo import algo_warnings
from rlvr_jax.train.validate_lora import lora_warnings
from rlvr_jax.train.validate_noise import noise_warnings
from rlvr_jax.train.validate_optimizer import optimizer_warnings

log = logging.getLogger(__name__)


class Counters(NamedTuple):
    """How far a run is, on the host. Saved with every checkpoint."""

    step: int
    update: int
    prompts: int  # drawn; the next step begins with this one
    rollouts: int  # drawn
    tokens: int
    seconds: float


def run_point(
    config: TrainConfig,
    parts: Parts,
    starting_params: Params,
    folder: Path,
    *,
    stop: StopRequest,
    progress: Progress,
) -> str:
    """Trains one point to its last update, from its newest checkpoint if it has one; "skipped" or "finished".

    Raises:
        ConfigError: the directory was started with other settings or another starting policy, or is a branch whose
            trunk was; or a device's memory does not hold the run, which goes on from its last checkpoint with
            settings that need less.
        FloatingPointError: a loss or gradient was not finite; the state before it is saved.
        RewardError: not one prompt of a step could be graded; the state before it is saved.
        Stopped: `stop` is due; the state is saved.
    """
    start_hash = params_hash(starting_params)
    earlier = told_by_first(read_run(folder) if is_first() else None)
    if earlier is not None:
        check_same_config(config, earlier, folder)
        # a warm start rounds in another way on other devices; what goes on is the checkpoint's, if no more is needed
        may_differ = is_placement_changed(config, earlier) and config.algo.kl_coef == 0 and parts.lora is None
        if earlier["starting_params"] != start_hash and not may_differ:
            raise ConfigError(
                [
                    f"{folder} was started from other weights ({earlier['starting_params']}) than the warm start or "
                    f"the checkpoint now gives ({start_hash}), as happens when its files, the code, jax or the machine "
                    "changed; delete the directory or choose another --runs=DIR"
                ]
            )
        if earlier["task_data"] != parts.task.fingerprint:
            raise ConfigError(
                [
                    f"the data of task {parts.task.name!r} changed since {folder} was started "
                    f"({earlier['task_data']} -> {parts.task.fingerprint}); put it back or choose another --runs=DIR"
                ]
            )
        if earlier["tokenizer"] != tokenizer_record(parts.tokenizer):
            raise ConfigError(
                [
                    f"the tokenizer changed since {folder} was started ({earlier['tokenizer']} -> "
                    f"{tokenizer_record(parts.tokenizer)}); put it back or choose another --runs=DIR"
                ]
            )
        if earlier["status"] == FINISHED and earlier["config"]["n_updates"] == config.n_updates:
            return "skipped"
    with out_of_memory_explained(parts.memory, lambda: "loading the state"):
        run = _Run(config, parts, starting_params, folder, start_hash, earlier)
    try:
        with out_of_memory_explained(parts.memory, run.stopped_for_memory):
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
        self.config, self.parts, self.folder = config, parts, folder
        programs = kept_programs(config, parts)
        self.evaluate_params = programs.evaluate
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            keep_newest=config.checkpoint.keep_newest,
            keep_best=config.checkpoint.keep_best,
        )
        wait_for_all("checkpoints opened")
        # by shapes alone: beside a state made only to be replaced there may be no room for another
        restored = self.checkpoints.restore_newest(placed_abstract_state(parts.layout, programs.optimizer))
        self.trunk = None  # of a branch: where it starts
        if restored:
            state, self.trunk = restored[0], recorded_trunk(config, earlier, folder)
        elif config.start.checkpoint:
            others = told_by_first(recorded_trunks(config, folder.parent) if is_first() else None)
            state, self.trunk = branch_state(config, parts, start_hash, programs.optimizer, others=others)
        else:
            state = starting_state(config, parts, starting_params, programs.optimizer)
        self.learner = Learner(config, parts, programs, state, starting_params)
        self.counters = Counters(**restored[1]) if restored else Counters(0, 0, 0, 0, 0, 0.0)
        self.is_resumed = restored is not None
        self.start_hash = earlier["starting_params"] if earlier is not None and restored else start_hash
        last_update = self.counters.update if restored else -1
        self.log, evals = SilentLog(), None
        if is_first():
            sinks = sink_openers(folder, config, last_update=last_update)
            self.log = RunLog(folder, last_update=last_update, sinks=sinks)
            evals = list(read_rows(folder / EVALS_FILE))  # after the log has cut what the checkpoint does not know
        evals = told_by_first(evals)
        self.last_evaluation = (
            {name: evals[-1][name] for name in evals[-1] if name.startswith("eval/")} if evals else {}
        )
        self.best_accuracy = max((row[self._target_name] for row in evals), default=-math.inf)
        self.longest_step_s = 0.0
        self.plain_train_s = math.nan
        self.longest_evaluation_s = max((row["perf/eval_s"] for row in evals), default=0.0)
        if earlier is not None and restored:
            warn_if_machine_changed(earlier)
        self.write_run(RUNNING)

    def write_run(self, status: str, **more: Any) -> None:
        if not is_first():
            return
        write_run(
            self.folder,
            self.config,
            self.parts.plan,
            status=status,
            starting_params_hash=self.start_hash,
            task_data=self.parts.task.fingerprint,
            tokenizer=tokenizer_record(self.parts.tokenizer),
            **({"trunk": self.trunk} if self.trunk else {}),
            **more,
        )

    def stopped_for_memory(self) -> str:
        """Writes down that the run stopped, and says where it goes on."""
        self.checkpoints.wait()
        newest = max(self.checkpoints.all_updates(), default=None)
        self.write_run(STOPPED, out_of_memory_after_update=self.counters.update)
        saved = "before its first checkpoint" if newest is None else f"with everything up to update {newest} saved"
        return f"{self.folder}, {saved},"

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # the second closes even if the first cannot
            closing.callback(self.checkpoints.close)
            closing.callback(self.log.close)

    def train(self, *, stop: StopRequest, progress: Progress) -> None:
        config, n_steps = self.config, self.parts.plan.n_steps
        warnings = [*plan_warnings(self.parts.plan), *algo_warnings(config), *noise_warnings(config)]
        warnings += memory_warnings(self.parts.memory)
        warnings += [*lora_warnings(config), *optimizer_warnings(config), wandb_login_problem(config.log.wandb)]
        for warning in filter(None, warnings):
            log.warning(warning)
        if self.is_resumed:
            progress.line(f"resuming after update {self.counters.update}")
        else:
            self._evaluate()
            progress.line(self._summary())
        # one program draws all tokens of most rollouts, and its dispatch returns at once; several wait for each other
        overlaps = config.sampling.max_new_tokens <= config.sampling.bucket_tokens and self.learner.draws_all_at_once
        timer = LapTimer()
        drawn = self._drawn()
        sample_s = timer.lap_s()
        while self.counters.step < n_steps:
            step, before = self.counters.step, self.counters
            started_s = time.monotonic()
            collection = self._collected(drawn)
            reward_s = timer.lap_s()
            first_step = self.trunk.get("steps", 0) if self.trunk else 0  # a branch goes on in its trunk's order
            updated = self.learner.update(collection, step, step_of_order=first_step + step)
            collection = updated.collection
            self.counters = self._counters_after(collection)
            # the device draws the next rollouts while the host fetches and writes these
            drawn = self.learner.draw(self._next_prompt) if overlaps and self.counters.step < n_steps else None
            fetched, arrays = on_host((updated.metrics, updated.arrays))
            train_s, compile_s = timer.lap_s(), timer.compile_s()
            noise = self._noise_cost(updated, train_s)
            perf = step_metrics(
                self.parts.plan,
                sample_s=sample_s,
                reward_s=reward_s,
                train_s=train_s,
                compile_s=compile_s,
                n_tokens=collection.n_tokens,
            )
            seconds = before.seconds + sample_s + reward_s + train_s + compile_s
            self.counters = self.counters._replace(seconds=seconds)
            self._name_nonfinite(collection, arrays)  # first: rows that are not finite may end the run
            self._write_rows(before, fetched, self._collection_metrics(collection, before) | perf | noise)
            self._write_samples(collection, step)
            if arrays is not None and arrays.sketch_PRW is not None:
                self.log.noise(measured_rollouts(collection, arrays), update=self.counters.update)
            progress.update(self.counters.update, config.n_updates, f"reward {_mean_reward(collection):.3f}")
            drawn = self._drawn(drawn)
            sample_s = timer.lap_s()

            self.longest_step_s = max(self.longest_step_s, time.monotonic() - started_s - compile_s)
            self.checkpoints.check()
            is_last = self.counters.step == n_steps
            is_best, accuracy = False, None
            if is_evaluation_due(step, config):
                milestone = self._milestone()
                self._evaluate(milestone)
                progress.line(self._summary())
                if milestone:
                    progress.line(milestone_text(milestone, update=self.counters.update))
                accuracy = self.last_evaluation[self._target_name]
                is_best = config.checkpoint.keep_best > 0 and accuracy > self.best_accuracy
                self.best_accuracy = max(accuracy, self.best_accuracy)
            timer.lap_s()
            is_stopping = stop.is_due(next_s=self._next_step_s())
            if is_due(step, config.checkpoint.every_updates, config) or is_best or is_last or is_stopping:
                self._save(self.counters, accuracy=accuracy)
            if is_stopping and not is_last:
                self.checkpoints.wait()
                self.write_run(STOPPED, stopped_after_update=self.counters.update)
                raise Stopped(f"saved {self.folder} after update {self.counters.update}", exit_code=stop.exit_code)
        self._finish()

    def _next_step_s(self) -> float:
        """How long the next step may take, with its evaluation if one is due."""
        is_evaluated = is_evaluation_due(self.counters.step, self.config)
        return self.longest_step_s + self.longest_evaluation_s * is_evaluated

    @property
    def _next_prompt(self) -> int:
        """Its number, from which problem and random keys follow: a branch goes on after its trunk's."""
        return self.counters.prompts + (self.trunk["prompts"] if self.trunk else 0)

    def _drawn(self, drawn: Drawn | None = None) -> Drawn | None:
        """The rollouts of the next step, dispatched before or now, once they are there; None after the last."""
        if drawn is None and self.counters.step < self.parts.plan.n_steps:
            drawn = self.learner.draw(self._next_prompt)
        return jax.block_until_ready(drawn)

    def _collected(self, drawn: Drawn) -> Collection:
        """The graded collection of the step in progress; the state is saved if it cannot be graded."""
        try:
            return self.learner.collect(drawn, self._next_prompt)
        except RewardError:
            self._save(self.counters, accuracy=None)
            self.checkpoints.wait()
            self.write_run(STOPPED, ungraded_after_update=self.counters.update)
            raise

    def _counters_after(self, collection: Collection) -> Counters:
        counters, plan = self.counters, self.parts.plan
        return Counters(
            step=counters.step + 1,
            update=counters.update + plan.updates_per_step,
            prompts=counters.prompts + collection.n_prompts_drawn,
            rollouts=counters.rollouts + collection.n_prompts_drawn * plan.n_rollouts,
            tokens=counters.tokens + collection.n_tokens,
            seconds=counters.seconds,
        )

    def _write_rows(self, before: Counters, fetched: list[dict[str, np.ndarray]], shared: dict[str, float]) -> None:
        """One row per update of the step. Raises FloatingPointError at one that was not finite, unless it may be
        skipped."""
        optimizer = self.config.optimizer
        for index, metrics in enumerate(fetched):
            update = before.update + index + 1
            is_applied, n_in_a_row = metrics.pop("is_applied"), int(metrics.pop("n_skipped_in_a_row"))
            if not is_applied and optimizer.nonfinite == "stop":
                self._stop_at_nonfinite(before, update, index, metrics)
            values = {name: float(value) for name, value in metrics.items()}
            self.log.metrics(self.counters._asdict() | {"update": update} | shared | values)
            if not is_applied:
                log.warning("update %d was not finite and was skipped (%d in a row)", update, n_in_a_row)
        if n_in_a_row > optimizer.max_skipped_in_a_row:
            self._save(self.counters, accuracy=None)
            self.checkpoints.wait()
            self.write_run(STOPPED, nonfinite_at_update=update)
            raise FloatingPointError(
                f"{n_in_a_row} updates in a row, up to {update}, were not finite and were skipped, more than "
                f"optimizer.max_skipped_in_a_row={optimizer.max_skipped_in_a_row}; the state, unchanged by them, is "
                f"saved in {self.folder}. Start another run with less than {self.config.peak_lr_text}"
            )

    def _stop_at_nonfinite(self, before: Counters, update: int, index: int, metrics: dict[str, np.ndarray]) -> None:
        what = ", ".join(f"{name}={float(metrics[name])}" for name in ("loss/total", "optim/grad_norm"))
        newest = max(self.checkpoints.all_updates(), default=None)
        goes_on = "it starts over" if newest is None else f"it goes on from the checkpoint of update {newest}"
        saved = f"it lies inside a step, where nothing is saved: run again, {goes_on}"
        if index == 0:  # the frozen state is that of a step's end; later ones lie inside a step
            learner = self.learner
            zero = jnp.zeros_like(learner.state.n_nonfinite)
            learner.state = learner.state.replace(n_nonfinite=zero, n_skipped_in_a_row=zero)
            learner.undo_noise()
            self._save(before, accuracy=None)
            self.checkpoints.wait()
            saved = f"the state after update {before.update} is saved in {self.folder}"
        self.write_run(STOPPED, nonfinite_at_update=update)
        raise FloatingPointError(
            f"update {update} was not finite ({what}) and was not applied; {saved}. A run keeps its settings: start "
            f"another with --runs=DIR and less than {self.config.peak_lr_text}"
        )

    def _noise_cost(self, updated: Updated, train_s: float) -> dict[str, float]:
        """perf/noise_s of a measured step: of its own pass, else what it took beyond the last step without one."""
        if not updated.is_measured:
            self.plain_train_s = train_s
            return {}
        shared_s = float(np.maximum(train_s - self.plain_train_s, 0.0))  # NaN before there is such a step
        return {"perf/noise_s": shared_s if updated.noise_s is None else updated.noise_s}

    def _name_nonfinite(self, collection: Collection, arrays: MeasuredArrays | None) -> None:
        """Warns of rollouts whose gradient is not finite, where it was measured."""
        for p, r in np.argwhere(~arrays.is_finite_PR) if arrays is not None else ():
            log.warning(
                "update %d: the gradient of rollout %d of prompt %r is not finite; this noise measurement has no value",
                *(self.counters.update, r, collection.problems[p].prompt[:80]),
            )

    def _collection_metrics(self, collection: Collection, before: Counters) -> dict[str, float]:
        metrics = reward_metrics(collection) | selection_metrics(collection, self.config.algo)
        schedule = schedule_of(self.parts.task)
        if schedule:
            metrics["batch/stage"] = 1.0 + stage_number(schedule, before.prompts)
        return metrics

    def _write_samples(self, collection: Collection, step: int) -> None:
        config = self.config.log
        if not is_due(step, config.rollouts_every_updates, self.config):
            return
        update = self.counters.update
        self.log.rollouts(completion_rows(collection, update, n_prompts=config.rollouts_n_prompts), update=update)
        self.log.prompts(prompt_rows(collection, update), update=update)
        self.log.histogram("completions/length", collection.rollouts.completion_length_PR.reshape(-1), update=update)
        self.log.histogram("reward/kept", collection.reward_PR[collection.is_kept_PR], update=update)

    def _milestone(self) -> dict[str, float]:
        """What the rewards have come to, if this is a milestone: of the rows, which a resumed run has as well."""
        if self.counters.update not in self.config.eval.milestones or not is_first():
            return {}
        return milestone_means(read_rows(self.folder / METRICS_FILE), update=self.counters.update)

    def _evaluate(self, milestone: dict[str, float] | None = None) -> None:
        started_s = time.monotonic()
        self.last_evaluation = self.evaluate_params(self.learner.policy)
        evaluation_s = time.monotonic() - started_s
        self.longest_evaluation_s = max(self.longest_evaluation_s, evaluation_s)
        row = self.counters._asdict() | self.last_evaluation | {"perf/eval_s": evaluation_s}
        self.log.evaluation(row | (milestone or {}))

    @property
    def _target_name(self) -> str:
        return f"eval/{self.parts.task.name}/{self.config.eval.target_metric}"

    def _summary(self) -> str:
        short = {name.split("/", 2)[2]: value for name, value in self.last_evaluation.items()}
        overall = {name: value for name, value in short.items() if "/" not in name}  # without single categories
        shown = ", ".join(f"{name} {value:.3f}" for name, value in overall.items() if f"{name}_se" in overall)
        return f"update {self.counters.update}/{self.config.n_updates}, held-out {shown}"

    def _save(self, counters: Counters, *, accuracy: float | None) -> None:
        self.log.flush()  # rows first: a checkpoint is never ahead of them
        self.checkpoints.save(self.learner.state, counters._asdict(), update=counters.update, accuracy=accuracy)

    def _finish(self) -> None:
        self.checkpoints.wait()
        if is_first():
            evals = read_rows(self.folder / EVALS_FILE)
            reached = updates_to_targets(evals, metric=self._target_name, targets=self.config.eval.targets)
            settings = flat_fields(self.config) | {"optimizer.peak_lr_in_use": self.config.peak_lr}
            self.log.hparams(settings, self.last_evaluation | reached, update=self.counters.update)
        self.write_run(FINISHED, final=self.last_evaluation, counters=self.counters._asdict())


def _mean_reward(collection: Collection) -> float:
    kept = collection.reward_PR[collection.is_kept_PR]
    return float(kept.mean()) if len(kept) else math.nan
