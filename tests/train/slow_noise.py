"""Gradient noise by loops over groups and pairs of rollouts, in float64."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
from slow_loss import kl_term


def slow_group_gradients(batch, slopes, algo):
    """{part: f64[P, n]}: slopes of -1/R_x sum over the R_x kept rollouts, sum_t (A log pi - kl_coef KL + c entropy)."""
    P, R, _ = slopes.logprob_PRT.shape
    out = {part: np.zeros((P, leaf.shape[3])) for part, leaf in slopes.logprob.items()}
    for part, p, r in itertools.product(out, range(P), range(R)):
        if not batch.is_kept_PR[p, r]:
            continue
        n_kept = int(batch.is_kept_PR[p].sum())
        for t in range(int(batch.completion_length_PR[p, r])):
            weight = float(batch.loo_advantage_PR[p, r])
            if batch.reference_logprob_PRT is not None:
                reference = float(batch.reference_logprob_PRT[p, r, t])
                weight -= algo.kl_coef * kl_term(slopes.logprob_PRT[p, r, t], reference, algo.kl_estimator)[1]
            out[part][p] -= weight / n_kept * slopes.logprob[part][p, r, t]
            out[part][p] -= algo.entropy_coef / n_kept * slopes.entropy[part][p, r, t]
    return out


def slow_scale(group_Pn, is_counted_P):
    """(S, |G|^2) of the groups that are counted."""
    groups = [g for g, is_counted in zip(group_Pn, is_counted_P, strict=True) if is_counted]
    n = len(groups)
    if n < 2:
        return math.nan, math.nan
    mean = sum(groups) / n
    trace_cov = sum(((g - mean) ** 2).sum() for g in groups) / (n - 1)
    # the mean of <g_x, g_y> over pairs of different groups, which is |mean|^2 - S / n
    grad_sq = np.mean([groups[i] @ groups[j] for i, j in itertools.permutations(range(n), 2)])
    return trace_cov, grad_sq


def slow_left_out(group_Pn, is_counted_P):
    """[(S, |G|^2)] without each counted prompt."""
    counted = np.flatnonzero(is_counted_P)
    return [slow_scale(group_Pn, np.isin(np.arange(len(group_Pn)), np.delete(counted, i))) for i in range(len(counted))]


def slow_moments(score_Rn, reward_R):
    """(q0, q1, q2) of one prompt: means over pairs of pairs that share 0, 1 and 2 rollouts."""
    pairs = list(itertools.combinations(range(len(reward_R)), 2))
    h = {(j, k): 0.5 * (reward_R[j] - reward_R[k]) * (score_Rn[j] - score_Rn[k]) for j, k in pairs}
    products = {0: [], 1: [], 2: []}
    for a, b in itertools.product(pairs, pairs):
        products[len({*a} & {*b})].append(h[a] @ h[b])
    return tuple(np.mean(products[n]) for n in range(3))


def slow_split(score_PRn, reward_PR, is_kept_PR, grad_sq):
    """(V_prompt, zeta1, zeta2) over the prompts with at least four rollouts, and how many there are."""
    moments = [
        slow_moments(score_Rn[is_kept_R], reward_R[is_kept_R].astype(np.float64))
        for score_Rn, reward_R, is_kept_R in zip(score_PRn, reward_PR, is_kept_PR, strict=True)
        if is_kept_R.sum() >= 4
    ]
    q0, q1, q2 = np.mean(moments, axis=0)
    return (q0 - grad_sq, q1 - q0, q2 - q0), len(moments)


def slow_naive(group_Pn, n_blocks, n_rollouts):
    """b / (K - 1) sum_k |g_k - mean g|^2 / |mean g|^2, in rollouts."""
    blocks = np.array_split(group_Pn, n_blocks)
    means = np.stack([block.mean(axis=0) for block in blocks])
    spread = ((means - means.mean(axis=0)) ** 2).sum() / (n_blocks - 1)
    return n_rollouts * len(blocks[0]) * spread / (means.mean(axis=0) ** 2).sum()
