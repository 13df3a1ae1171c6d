"""The noise of some prompts at frozen weights: drawn, graded and measured, as arrays on the host.

A chunk always has the same shape, so that one program serves all: rows that are missing in the last one, and those
of groups with a gradient that is not finite, are filled with another group's tokens, of which nothing is kept.
"""

import copy
import dataclasses
import logging
from typing import NamedTuple

import jax
import numpy as np

from rlvr_jax.models.spec import Params
from rlvr_jax.train.assemble import Parts, root_key
from rlvr_jax.train.collect import Collection, collected
from rlvr_jax.train.config import BatchConfig, TrainConfig
from rlvr_jax.train.draw_rollouts import draw_rollouts
from rlvr_jax.train.learner import Learner
from rlvr_jax.train.loss import Batch
from rlvr_jax.train.noise_folder import Arrays, reading_arrays
from rlvr_jax.train.noise_pass import GradientSums, Reading
from rlvr_jax.train.placement import place_batch, replicated
from rlvr_jax.train.processes import on_host, placed
from rlvr_jax.train.programs import build_programs, noise_measuring, policy_logprobs
from rlvr_jax.train.state import TrainState

log = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """What is left of P prompts once they are measured."""

    arrays: Arrays  # [P, ...], as they are saved
    sums: GradientSums  # numpy, over the prompts that are kept


class ChunkMeasurement:
    """Measures chunk after chunk of one policy; compiled once."""

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        state: TrainState,
        starting_params: Params | None,
        *,
        chunk_prompts: int,
        n_rollouts: int,
        seed: int,
    ):
        """`starting_params` are the reference of a KL penalty and the weights under an adapter, needed only there."""
        config = _measuring_config(config, n_prompts=chunk_prompts, n_rollouts=n_rollouts)
        programs = build_programs(config, parts)
        self._config, self._parts, self._sample = config, parts, programs.sample
        self._learner = Learner(config, parts, programs, state, starting_params)
        self._key = placed(jax.random.fold_in(root_key(config.seed, "noise"), seed), replicated(parts.mesh))
        measuring = noise_measuring(config, parts, policy_logprobs(config, parts))
        self.metric = measuring.metric(state)

        def measure(
            params: Params, frozen: Params | None, batch: Batch, metric: Params | None
        ) -> tuple[GradientSums, Reading]:
            _, _, sums, reading = measuring.noise_pass(params, frozen, batch, metric)
            return parts.layout.constrained(sums), reading

        self._measure = jax.jit(measure, out_shardings=(None, replicated(parts.mesh)))

    def __call__(self, problem_P: np.ndarray, first_prompt: int) -> Chunk:
        """Of training problems, by their index; the first is number `first_prompt` of the measurement.

        That number, not the problem, names the keys of its rollouts. Raises FloatingPointError if gradients that are
        finite are not so when added up.
        """
        n, place_P = len(problem_P), np.arange(self._config.batch.n_prompts)
        collection = self._collected(problem_P, first_prompt)
        filled = _collection_rows(collection, np.where(place_P < n, place_P, 0), is_real_P=place_P < n)
        collection, batch = self._learner.batch(filled)
        sums, reading, is_finite_PR = self._finite_reading(batch, n)
        collection = _collection_rows(collection, place_P[:n], is_real_P=place_P[:n] < n)
        is_finite_P = is_finite_PR.all(axis=1)
        arrays = {
            "prompt": np.array([problem.prompt for problem in collection.problems]),
            "problem_P": problem_P,
            "reward_PR": collection.reward_PR,
            "is_kept_PR": collection.is_kept_PR & is_finite_P[:, None],
            "is_finite_PR": is_finite_PR,
            "is_effective_P": collection.is_effective_P & is_finite_P,
            "completion_length_PR": collection.rollouts.completion_length_PR,
            **reading_arrays(reading),
        }
        return Chunk(arrays, sums)

    def _collected(self, problem_P: np.ndarray, first_prompt: int) -> Collection:
        config, parts, n_rows = self._config, self._parts, self._config.batch.n_prompts
        problems = [parts.task.train_problem(int(index)) for index in problem_P]
        rollouts = draw_rollouts(
            self._sample,
            self._learner.policy,
            problems + problems[:1] * (n_rows - len(problems)),
            range(first_prompt, first_prompt + n_rows),
            self._key,
            parts,
            config.sampling,
            n_rollouts=config.batch.n_rollouts,
        )
        rollouts = jax.tree.map(lambda leaf: leaf[: len(problems)] if leaf.ndim else leaf, on_host(rollouts))
        max_new_tokens = config.sampling.max_new_tokens
        collection = collected(
            parts.task, problems, rollouts, parts.tokenizer, config.algo, max_new_tokens=max_new_tokens
        )
        failures = collection.grades.failures
        if failures:
            log.warning(
                "%d of %d prompts could not be graded and are left out: %s", len(failures), len(problems), failures[0]
            )
        return collection

    def _finite_reading(self, batch: Batch, n: int) -> tuple[GradientSums, Reading, np.ndarray]:
        """Sums and reading of the first n prompts, and whether each rollout's gradient is finite, bool[n, R].

        Where one is not, sums would be NaN: the pass is made again without its group, which is then 0 in both.
        """
        sums, reading = self._read(batch)
        is_finite_PR = _is_finite(reading, n_rollouts=self._config.batch.n_rollouts)
        is_finite_P = is_finite_PR.all(axis=1)
        if not is_finite_P[:n].any():
            return *jax.tree.map(np.zeros_like, (sums, _rows(reading, n))), is_finite_PR[:n]
        if not is_finite_P.all():
            row_P = np.where(is_finite_P, np.arange(len(is_finite_P)), np.flatnonzero(is_finite_P)[0])
            filled = jax.tree.map(lambda leaf: leaf[row_P], batch)
            sums, reading = self._read(filled.replace(is_kept_PR=batch.is_kept_PR & is_finite_P[:, None]))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((sums, reading))):
            raise FloatingPointError("the sum of gradients is not finite, although each of them is")
        return sums, _rows(reading, n), is_finite_PR[:n]

    def _read(self, batch: Batch) -> tuple[GradientSums, Reading]:
        on_devices = place_batch(batch, self._parts.mesh, axis=0)
        return on_host(self._measure(self._learner.state.params, self._learner.frozen, on_devices, self.metric))


def _measuring_config(config: TrainConfig, *, n_prompts: int, n_rollouts: int) -> TrainConfig:
    """Of one collection, all of it measured in a pass of its own."""
    config = copy.deepcopy(config)
    config.algo.select = "all"  # the noise is that of the policy gradient, which all rollouts estimate
    config.batch = BatchConfig(n_prompts=n_prompts, n_rollouts=n_rollouts, microbatch_prompts=n_prompts)
    config.noise = dataclasses.replace(
        config.noise, every_updates=0, decompose=True, shares_backward=False, keep_sketches=True
    )
    return config


def _collection_rows(collection: Collection, row_P: np.ndarray, is_real_P: np.ndarray) -> Collection:
    """The collection with the prompts `row_P`, of which only the real ones are kept."""
    rollouts, grades = collection.rollouts, collection.grades

    def rows(leaf: np.ndarray) -> np.ndarray:
        return leaf[row_P] if leaf.ndim else leaf

    return dataclasses.replace(
        collection,
        problems=[collection.problems[row] for row in row_P],
        completion_texts=[collection.completion_texts[row] for row in row_P],
        rollouts=jax.tree.map(rows, rollouts),
        grades=dataclasses.replace(
            grades,
            named_rewards={name: values_PR[row_P] for name, values_PR in grades.named_rewards.items()},
            reward_PR=grades.reward_PR[row_P],
            is_correct_PR=grades.is_correct_PR[row_P],
        ),
        penalties={name: penalty_PR[row_P] for name, penalty_PR in collection.penalties.items()},
        is_kept_PR=collection.is_kept_PR[row_P] & is_real_P[:, None],
    )


def _rows(reading: Reading, n: int) -> Reading:
    return jax.tree.map(lambda leaf: leaf[:n], reading)


def _is_finite(reading: Reading, *, n_rollouts: int) -> np.ndarray:
    """bool[P, R], as far as the pass looked: without scores, or where no score shows it, whole groups are false.

    Of rollouts that are not kept as well: times a weight of 0, a NaN is one all the same. Sketches do not tell, since
    they are made of several prompts at a time.
    """
    is_finite_PR = np.ones((len(next(iter(reading.loss.sq_norm.values()))), n_rollouts), bool)
    if reading.gram is not None:
        is_finite_PR = np.isfinite(np.diagonal(sum(reading.gram.values()), axis1=1, axis2=2))
    groups = [found for found in (reading.loss, reading.policy, reading.adam) if found is not None]
    is_finite_P1 = np.isfinite(sum(sum(found.sq_norm.values()) for found in groups))[:, None]
    return is_finite_PR & (is_finite_P1 | ~is_finite_PR.all(axis=1, keepdims=True))
