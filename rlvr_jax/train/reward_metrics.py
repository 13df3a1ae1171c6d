"""What a collection's rewards and lengths look like, as metrics and as tables."""

from typing import Any

import numpy as np

from rlvr_jax.train.collect import Collection


def reward_metrics(collection: Collection) -> dict[str, float]:
    """reward/, rewards/, completions/ and batch/ metrics of a collection; NaN where there is nothing to count.

    reward/ describes what is trained on, penalties included, over the rollouts that are kept; rewards/
    each of its parts over those that could be graded, unweighted. health/ counts everything that was drawn.
    """
    reward_PR, is_kept_PR = collection.reward_PR, collection.is_kept_PR
    length_PR, is_correct_PR = collection.rollouts.own_length_PR, collection.grades.is_correct_PR
    groups = [reward_R[is_kept_R] for reward_R, is_kept_R in zip(reward_PR, is_kept_PR, strict=True)]
    groups = [reward_R for reward_R in groups if len(reward_R)]
    kept = reward_PR[is_kept_PR]
    best_of_n = _mean([reward_R.max() for reward_R in groups])
    has_groups = reward_PR.shape[1] > 1
    metrics = {
        "reward/mean": _mean(kept),
        "reward/std": kept.std() if len(kept) else np.nan,
        "reward/within_group_std": _mean([reward_R.std() for reward_R in groups]) if has_groups else np.nan,
        "reward/frac_zero_std": 1.0 - collection.is_effective_P.mean() if has_groups else np.nan,
        "reward/frac_all_zero": _mean([(reward_R == 0).all() for reward_R in groups]),
        "reward/frac_all_one": _mean([(reward_R == 1).all() for reward_R in groups]),
        "reward/best_of_n": best_of_n,
        "reward/best_of_n_gap": best_of_n - _mean(kept),
        "completions/mean_length": length_PR.mean(),
        "completions/max_length": length_PR.max(),
        "completions/truncated_frac": collection.rollouts.is_truncated_PR.mean(),
        "completions/length_correct": _mean(length_PR[is_correct_PR]),
        "completions/length_incorrect": _mean(length_PR[~is_correct_PR]),
        "batch/n_prompts": len(collection.problems),
        "batch/n_rollouts": reward_PR.shape[1],
        "batch/n_kept_rollouts": is_kept_PR.sum(),
        "batch/effective_prompts": collection.is_effective_P.sum(),
        "batch/unique_prompts": len({problem.prompt for problem in collection.problems}),
        "batch/n_prompts_drawn": collection.n_prompts_drawn,
        "batch/effective_prompts_drawn": collection.n_effective_drawn,
        "health/ungraded_prompts": len(collection.grades.failures),
        "health/ungraded_rollouts": collection.n_ungraded_drawn,
    }
    grades = collection.grades
    metrics |= {f"health/{name}": count for name, count in grades.counts.items()}
    for name, values_PR in (grades.named_rewards | collection.penalties).items():
        graded = values_PR[np.isfinite(values_PR)]
        metrics[f"rewards/{name}/mean"] = _mean(graded)
        metrics[f"rewards/{name}/std"] = graded.std() if len(graded) else np.nan
        metrics[f"rewards/{name}/weighted_mean"] = grades.weights.get(name, 1.0) * _mean(graded)
    return {name: float(value) for name, value in metrics.items()}


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def completion_rows(collection: Collection, update: int, *, n_prompts: int) -> list[dict[str, Any]]:
    """All rollouts of the first prompts of a collection, one row each."""
    reward_PR, rollouts = collection.reward_PR, collection.rollouts
    return [
        {
            "update": update,
            "prompt": problem.prompt,
            "answer": problem.answer,
            "completion": text,
            "reward": float(reward_PR[p, r]),
            "is_correct": bool(collection.grades.is_correct_PR[p, r]),
            "length_tokens": int(rollouts.own_length_PR[p, r]),
            "is_truncated": bool(rollouts.is_truncated_PR[p, r]),
            "is_kept": bool(collection.is_kept_PR[p, r]),
        }
        for p, problem in enumerate(collection.problems[:n_prompts])
        for r, text in enumerate(collection.completion_texts[p])
    ]


def prompt_rows(collection: Collection, update: int) -> list[dict[str, Any]]:
    """One row per different prompt of a collection, over all rollouts of it that are kept."""
    places: dict[str, list[int]] = {}
    for p, problem in enumerate(collection.problems):
        places.setdefault(problem.prompt, []).append(p)
    rows = []
    for prompt, groups in places.items():
        is_kept, reward = collection.is_kept_PR[groups], collection.reward_PR[groups]
        kept = reward[is_kept]
        rows.append(
            {
                "update": update,
                "prompt": prompt,
                "answer": collection.problems[groups[0]].answer,
                "n_groups": len(groups),
                "n_rollouts": int(is_kept.sum()),
                "reward_mean": _mean(kept),
                "reward_std": float(kept.std()) if len(kept) else np.nan,
                "reward_max": float(kept.max()) if len(kept) else np.nan,
                "n_correct": int(collection.grades.is_correct_PR[groups][is_kept].sum()),
            }
        )
    return rows
