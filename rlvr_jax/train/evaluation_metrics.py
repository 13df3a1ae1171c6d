"""From the grades of an evaluation to its metrics: greedy, pass@k, maj@k, and each category by itself."""

import math

import numpy as np

from rlvr_jax.tasks.problem import Grades, Problem
from rlvr_jax.train.majority_vote import majority_at_k


def evaluation_metrics(
    problems: list[Problem], greedy: Grades, sampled: Grades, *, k: tuple[int, ...]
) -> dict[str, float]:
    """Metrics by name, with `_se` beside each that is a mean over problems.

    `ungraded_frac` is the share of problems with a completion that the task could not grade and that counts as
    wrong. `reward` and `rewards/<name>` are means over the draws that could be graded, `reward` after weights.
    `<category>/...` is over the problems of one category, of which there are `<category>/n`.

    Args:
        greedy: of one completion per problem, [P, 1].
        sampled: of [P, R] draws.
        k: of pass@k and maj@k, each 1..R.
    """
    n_samples = sampled.is_correct_PR.shape[1]
    greedy_P, n_correct_P = greedy.is_correct_PR[:, 0], sampled.is_correct_PR.sum(axis=1)
    metrics = _named("greedy", greedy_P)
    for one_k in k:
        metrics |= _named(f"pass@{one_k}", pass_at_k(n_correct_P, n_samples=n_samples, k=one_k))
    if sampled.answers is not None:
        for one_k in k:
            metrics |= _named(f"maj@{one_k}", majority_at_k(sampled.answers, sampled.is_correct_PR, k=one_k))
    is_ungraded_P = np.isnan(greedy.reward_PR).any(axis=1) | np.isnan(sampled.reward_PR).any(axis=1)
    metrics["ungraded_frac"] = float(is_ungraded_P.mean())
    graded = np.isfinite(sampled.reward_PR)
    metrics["reward"] = float(sampled.reward_PR[graded].mean()) if graded.any() else math.nan
    for name, values_PR in sampled.named_rewards.items():
        values = values_PR[np.isfinite(values_PR)]
        metrics[f"rewards/{name}"] = float(values.mean()) if len(values) else math.nan
    for category in sorted({name for problem in problems for name in problem.categories}):
        is_in_P = np.array([category in problem.categories for problem in problems])
        metrics |= _named(f"{category}/greedy", greedy_P[is_in_P])
        metrics |= _named(f"{category}/pass@1", n_correct_P[is_in_P] / n_samples)
        metrics[f"{category}/n"] = int(is_in_P.sum())
    return metrics


def _named(name: str, value_P: np.ndarray) -> dict[str, float]:
    mean, se = mean_and_se(value_P)
    return {name: mean, f"{name}_se": se}


def pass_at_k(n_correct_P: np.ndarray, *, n_samples: int, k: int) -> np.ndarray:
    """The chance, per problem, that one of k samples is right; without bias.

        1 - C(n - c, k) / C(n, k)     n samples of which c are right

    Codex, arXiv:2107.03374 sec. 2.1.

    Args:
        n_correct_P: int[P], right samples per problem.
        n_samples: n, samples per problem.
        k: 1..n.

    Returns:
        f64[P] in [0, 1].
    """
    if not 1 <= k <= n_samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= n_samples={n_samples}")
    return np.array([1.0 - math.comb(n_samples - int(c), k) / math.comb(n_samples, k) for c in n_correct_P])


def mean_and_se(value_P: np.ndarray) -> tuple[float, float]:
    """Mean over problems and its standard error, as if they were a random sample of many; NaN for a single one."""
    n = len(value_P)
    return float(np.mean(value_P)), float(np.std(value_P, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
