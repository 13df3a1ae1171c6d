"""Accuracy on the held-out set: greedy, sampled, pass@k without bias, each with a standard error."""

import math
from collections.abc import Callable

import numpy as np

from rlvr_jax.models.spec import Params
from rlvr_jax.sampling.rollout import Sampler, build_sampler
from rlvr_jax.tasks.problem import Grades
from rlvr_jax.train.assemble import Parts, root_key
from rlvr_jax.train.config import EvalConfig, SamplingConfig
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.processes import on_host, placed
from rlvr_jax.train.sample_prompts import sample_prompts
from rlvr_jax.train.shared_grading import graded

Evaluator = Callable[[Params], dict[str, float]]


def pass_at_k(n_correct_P: np.ndarray, *, n_samples: int, k: int) -> tuple[float, float]:
    """Mean and standard error over problems of the unbiased pass@k.

        1 - C(n - c, k) / C(n, k)     n samples of which c are right

    Codex, arXiv:2107.03374 sec. 2.1. The standard error is over problems, as if they were a random
    sample of many; NaN for a single problem.

    Args:
        n_correct_P: int[P], right samples per problem.
        n_samples: n, samples per problem.
        k: 1..n.
    """
    if not 1 <= k <= n_samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= n_samples={n_samples}")
    all_wrong_P = [math.comb(n_samples - int(c), k) / math.comb(n_samples, k) for c in n_correct_P]
    return mean_and_se(1.0 - np.array(all_wrong_P))


def mean_and_se(value_P: np.ndarray) -> tuple[float, float]:
    """Mean over problems and its standard error."""
    n = len(value_P)
    return float(np.mean(value_P)), float(np.std(value_P, ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def build_evaluator(config: EvalConfig, parts: Parts, sampling: SamplingConfig) -> Evaluator:
    """Returns `evaluate(params) -> {"eval/<task>/greedy": ..., "eval/<task>/pass@1": ..., "..._se": ...}`.

    The first `n_problems` held-out problems, always the same ones with the same draws, so that two
    evaluations differ by the policy alone. A completion that the task cannot grade counts as wrong;
    eval/<task>/ungraded_frac says how many problems had one.
    """
    problems = [parts.task.heldout_problem(i) for i in range(config.n_problems)]
    key = placed(root_key(config.seed, "evaluation"), replicated(parts.mesh))

    def sampler(n_rollouts: int, temperature: float) -> Sampler:
        return build_sampler(
            parts.spec,
            n_rollouts=n_rollouts,
            max_new_tokens=sampling.max_new_tokens,
            bucket_tokens=sampling.bucket_tokens,
            temperature=temperature,
            eos_ids=parts.tokenizer.eos_ids,
            pad_id=parts.tokenizer.pad_id,
            compute_dtype=parts.compute_dtype,
            placement=parts.layout.of_sampler,
        )

    greedy_sampler, sampled_sampler = sampler(1, 0.0), sampler(config.n_samples, config.temperature)

    def grades(params: Params, one_sampler: Sampler, *, n_rollouts: int) -> Grades:
        rollouts = sample_prompts(
            one_sampler,
            params,
            problems,
            range(config.n_problems),
            key,
            parts.tokenizer,
            parts.mesh,
            max_prompt_tokens=parts.plan.max_prompt_tokens,
            bucket_tokens=sampling.bucket_tokens,
            prompts_at_once=parts.prompts_at_once(config.n_problems, n_rollouts),
        )
        return graded(parts.task, problems, on_host(rollouts), parts.tokenizer)[1]

    def evaluate(params: Params) -> dict[str, float]:
        prefix = f"eval/{parts.task.name}/"
        greedy_grades = grades(params, greedy_sampler, n_rollouts=1)
        sampled_grades = grades(params, sampled_sampler, n_rollouts=config.n_samples)
        greedy, greedy_se = mean_and_se(greedy_grades.is_correct_PR[:, 0])
        metrics = {prefix + "greedy": greedy, prefix + "greedy_se": greedy_se}
        n_correct_P = sampled_grades.is_correct_PR.sum(axis=1)
        for k in config.k:
            value, se = pass_at_k(n_correct_P, n_samples=config.n_samples, k=k)
            metrics |= {f"{prefix}pass@{k}": value, f"{prefix}pass@{k}_se": se}
        is_ungraded_P = np.isnan(greedy_grades.reward_PR).any(axis=1) | np.isnan(sampled_grades.reward_PR).any(axis=1)
        metrics[f"{prefix}ungraded_frac"] = float(is_ungraded_P.mean())
        return metrics

    return evaluate
