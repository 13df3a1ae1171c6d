"""Every kind of advantage once more, in Python floats, one rollout at a time."""

import numpy as np


def slow_advantages(reward_PR, is_kept_PR, *, kind, ddof, eps):
    """One rollout at a time, in Python floats; `kind` is looked up here and nowhere in the code under test."""
    P, R = reward_PR.shape
    out_PR = np.zeros((P, R))
    batch = [float(reward_PR[p, r]) for p in range(P) for r in range(R) if is_kept_PR[p, r]]
    for p in range(P):
        for r in range(R):
            if not is_kept_PR[p, r]:
                continue
            reward = float(reward_PR[p, r])
            group = [float(reward_PR[p, j]) for j in range(R) if is_kept_PR[p, j]]
            others = [float(reward_PR[p, j]) for j in range(R) if is_kept_PR[p, j] and j != r]
            if kind == "none":
                out_PR[p, r] = reward
            elif kind == "rloo":
                out_PR[p, r] = reward - _mean(others) if others else 0.0
            elif kind == "centred":
                out_PR[p, r] = reward - _mean(group)
            elif kind == "grpo":
                is_flat = min(group) == max(group)
                out_PR[p, r] = 0.0 if is_flat else (reward - _mean(group)) / (_std(group, ddof) + eps)
            elif kind == "batch_scaled":
                is_flat = min(group) == max(group)
                out_PR[p, r] = 0.0 if is_flat else (reward - _mean(group)) / (_std(batch, ddof) + eps)
            elif kind == "batch_mean":
                out_PR[p, r] = reward - _mean(batch)
            elif kind == "reinforce++":
                is_flat = min(batch) == max(batch)
                out_PR[p, r] = 0.0 if is_flat else (reward - _mean(batch)) / (_std(batch, ddof) + eps)
            else:
                raise AssertionError(kind)
    return out_PR


def _mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def _std(values, ddof):
    mean, total = _mean(values), 0.0
    for value in values:
        total += (value - mean) ** 2
    return (total / (len(values) - ddof)) ** 0.5
