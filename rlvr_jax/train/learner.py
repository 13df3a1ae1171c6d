"""What a step does with the devices: draws rollouts, has them graded, updates the policy."""

import logging
from typing import NamedTuple

import jax
import numpy as np

from rlvr_jax.algo.policy_loss import kl_estimate
from rlvr_jax.models.lora import policy_params
from rlvr_jax.models.spec import Params
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Grades, Problem
from rlvr_jax.tasks.rewards import is_graded_but_for_judge
from rlvr_jax.tasks.turns import max_turns
from rlvr_jax.train.assemble import Parts, root_key
from rlvr_jax.train.batch import (
    batch_without_advantages,
    in_microbatches,
    minibatch_rows,
    with_advantages,
    with_selection,
)
from rlvr_jax.train.batch_plan import is_noise_due
from rlvr_jax.train.collect import Collection, collected, prompts_of_step, with_penalty
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.draw_rollouts import draw_rollouts
from rlvr_jax.train.dynamic_sampling import effective_first
from rlvr_jax.train.loss import Batch, is_trained_token
from rlvr_jax.train.measure_noise import MeasuredArrays
from rlvr_jax.train.perf import LapTimer
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.processes import on_host, placed
from rlvr_jax.train.programs import Programs
from rlvr_jax.train.state import NoiseAverages, TrainState

log = logging.getLogger(__name__)

Drawn = tuple[list[Problem], Rollouts]  # on the device, perhaps not there yet


class Updated(NamedTuple):
    """What the updates of a step came to."""

    collection: Collection  # with the KL penalty of its rewards, if there is one
    metrics: list[dict[str, jax.Array]]  # one dict of device scalars per update, not waited for
    arrays: MeasuredArrays | None  # of the rollouts, where noise was measured
    noise_s: float | None  # of a measurement in a pass of its own
    is_measured: bool


class RewardError(RuntimeError):
    """Not one prompt of a step could be graded."""


class Learner:
    """The policy with its optimiser, and the programs that use them."""

    def __init__(
        self, config: TrainConfig, parts: Parts, programs: Programs, state: TrainState, starting_params: Params
    ):
        self.config, self.parts, self.programs, self.state = config, parts, programs, state
        # without a KL penalty no second copy of the weights is kept; with an adapter none is needed
        self._reference_params = starting_params if config.algo.kl_coef > 0 else None
        self.frozen = starting_params if parts.lora is not None else None
        self._rollout_key = placed(root_key(config.seed, "rollouts"), replicated(parts.mesh))
        self.noise_before: NoiseAverages | None = None  # where the step in flight measures: what it started from

    @property
    def policy(self) -> Params:
        """What is sampled from and evaluated: the trained weights, or the frozen ones with the adapter in place."""
        return policy_params(self.state.params, self.frozen, self.parts.lora)

    @property
    def draws_all_at_once(self) -> bool:
        """Whether one program samples all the prompts of a step."""
        batch = self.config.batch
        is_one_part = self.parts.prompts_at_once(batch.n_prompts, batch.n_rollouts) == batch.n_prompts
        return is_one_part and max_turns(self.parts.task) == 1

    def draw(self, first_prompt: int) -> Drawn:
        """Dispatches rollouts of the run's prompts from number `first_prompt` on; returns at once where it can."""
        config, n_prompts = self.config, self.config.batch.n_prompts
        problems = prompts_of_step(self.parts.task, first_prompt, n_prompts=n_prompts, seed=config.seed)
        return problems, draw_rollouts(
            self.programs.sample,
            self.policy,
            problems,
            range(first_prompt, first_prompt + n_prompts),
            self._rollout_key,
            self.parts,
            config.sampling,
            n_rollouts=config.batch.n_rollouts,
        )

    def collect(self, drawn: Drawn, first_prompt: int) -> Collection:
        """Waits for rollouts and grades them; with dynamic sampling draws again while too few groups teach anything.

        Raises RewardError if not one prompt could be graded, unless only a judge failed: that is a step with nothing
        to learn from, which a later one may make good.
        """
        n_prompts = self.config.batch.n_prompts
        rounds = [self._collected(drawn)]
        n_effective = rounds[0].n_effective_drawn
        while n_effective < n_prompts and len(rounds) < self.config.sampling.max_rounds:
            rounds.append(self._collected(self.draw(first_prompt + len(rounds) * n_prompts)))
            n_effective += rounds[-1].n_effective_drawn
        if not any(self._is_gradable(collection.grades) for collection in rounds):
            failure = next((failure for c in rounds for failure in c.grades.failures), "its rewards are not finite")
            n_drawn = sum(len(collection.problems) for collection in rounds)
            raise RewardError(f"not one of the {n_drawn} prompts of a step could be graded: {failure}")
        return rounds[0] if len(rounds) == 1 else effective_first(rounds, n_prompts=n_prompts)

    def _is_gradable(self, grades: Grades) -> bool:
        """Whether some rollout has a reward, or would have one if the judge had answered."""
        if "judge" in self.config.task.rewards:
            return bool(is_graded_but_for_judge(grades.named_rewards).any())
        return bool(np.isfinite(grades.reward_PR).any())

    def _collected(self, drawn: Drawn) -> Collection:
        problems, rollouts = drawn
        collection = collected(
            self.parts.task,
            problems,
            rollouts,
            self.parts.tokenizer,
            self.config.algo,
            max_new_tokens=self.config.sampling.max_new_tokens,
        )
        failures = collection.grades.failures
        if failures:
            log.warning(
                "rollouts of %d of %d prompts could not be graded and are left out: %s",
                *(len(failures), len(problems), failures[0]),
            )
        return collection

    def update(self, collection: Collection, step: int, *, step_of_order: int | None = None) -> Updated:
        """Dispatches all updates of a step. Waits only for a measurement of noise in a pass of its own.

        `step_of_order` seeds the order of its prompts, where that is not `step`: a branch counts its trunk's too.
        """
        config = self.config
        collection, batch = self.batch(collection)
        noise, arrays, noise_s, self.noise_before = {}, None, None, None
        train_step, is_measured = self.programs.train_step, is_noise_due(step, config)
        if is_measured:
            self.noise_before = on_host(self.state.noise)  # a copy: the step donates its state
            if self.programs.measured_step is not None:
                train_step = self.programs.measured_step
            else:
                timer = LapTimer()
                averages, noise, arrays = jax.block_until_ready(
                    self.programs.measure_noise(self.state, self.frozen, self._in_microbatches(batch))
                )
                noise_s = timer.lap_s()
                self.state = self.state.replace(noise=averages)
        metrics = []
        for rows_P in minibatch_rows(config, step if step_of_order is None else step_of_order):
            minibatch = jax.tree.map(lambda leaf, rows_P=rows_P: leaf[rows_P], batch)
            self.state, of_update, of_rollouts = train_step(self.state, self.frozen, self._in_microbatches(minibatch))
            arrays = of_rollouts or arrays
            metrics.append(of_update | noise)
            noise = {}
        return Updated(collection, metrics, arrays, noise_s, is_measured)

    def _in_microbatches(self, batch: Batch) -> Batch:
        microbatch_prompts = self.config.batch.microbatch_prompts or self.parts.plan.microbatch_prompts
        return in_microbatches(batch, self.parts.mesh, microbatch_prompts=microbatch_prompts)

    def batch(self, collection: Collection) -> tuple[Collection, Batch]:
        """The collection with the KL penalty of its rewards, if there is one, and its arrays [P, ...] on the host."""
        algo = self.config.algo
        batch = batch_without_advantages(collection)
        on_devices = self._in_microbatches(batch)

        def logprobs(params: Params) -> np.ndarray:
            logprob_MNRT = on_host(self.programs.logprob_pass(params, on_devices))
            return logprob_MNRT.reshape(-1, *logprob_MNRT.shape[2:])

        is_kl_in_reward = algo.kl_coef > 0 and algo.kl_in == "reward"
        has_old = self.config.updates_per_step > 1
        policy_PRT = logprobs(self.policy) if has_old or is_kl_in_reward else None
        reference_PRT = logprobs(self._reference_params) if self._reference_params is not None else None
        if is_kl_in_reward:
            kl_PRT = np.asarray(kl_estimate(policy_PRT, reference_PRT, estimator=algo.kl_estimator))
            kl_PR = np.where(np.asarray(is_trained_token(batch)), kl_PRT, 0.0).sum(axis=2)
            collection = with_penalty(collection, "kl", (-algo.kl_coef * kl_PR).astype(np.float32))
        batch = batch.replace(
            old_logprob_PRT=policy_PRT if has_old else None,
            reference_logprob_PRT=None if is_kl_in_reward else reference_PRT,
        )
        batch = with_advantages(batch, collection, self.programs.advantages)
        return collection, with_selection(batch, collection, algo)

    def undo_noise(self) -> None:
        """Puts the running averages of the noise back to where the step in flight found them."""
        if self.noise_before is not None:
            noise = jax.tree.map(lambda leaf, held: placed(leaf, held.sharding), self.noise_before, self.state.noise)
            self.state = self.state.replace(noise=noise)
