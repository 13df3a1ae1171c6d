"""The noise of any advantages at any smaller number of rollouts, from saved sketches and without the model.

Beside P, R and the sketch width W: a prompt's kept rollouts are cut into G subgroups of Q rollouts each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import numpy as np
import scipy.special

Array = np.ndarray | jax.Array
Advantages = Callable[[np.ndarray, np.ndarray], Array]  # (f32[P, Q], bool[P, Q]) -> f32[P, Q]


class Estimate(NamedTuple):
    """A number with its 95% interval; NaN where the data do not resolve it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OfflineNoise:
    """Of the gradient of one group of `n_rollouts`; a batch of P' such groups has tr Cov = trace_cov / P'."""

    trace_cov: Estimate  # S
    grad_sq: Estimate  # |G|^2, may be <= 0
    b_noise_prompts: Estimate  # S / |G|^2; NaN unless is_resolved
    is_resolved: bool
    prompts_to_resolve: float  # 2 S / |G|^2, or a lower bound of it where |G|^2 <= 0; NaN if not even that is known
    n_prompts: int  # with at least n_rollouts kept: what the estimates are made of
    n_prompts_left_out: int  # with fewer; if these are the hard ones, the estimates are of the others


def offline_noise(
    sketch_PRW: Array,
    reward_PR: Array,
    is_kept_PR: Array,
    *,
    advantages: Advantages,
    n_rollouts: int,
    n_draws: int,
    seed: int,
) -> OfflineNoise:
    """S, |G|^2 and B_noise of the group gradient g = 1/Q sum_j A_j s_j at Q = n_rollouts of the R drawn.

        a_x   = mean over subgroups of |g|^2          m_x = mean over subgroups of g
        |G|^2 = sum_{x != y} <m_x, m_y> / (P (P-1))   cross-prompt products only
        S     = mean_x a_x - |G|^2                    the noise scale's S, averaged over every batch of
                                                      one subgroup per prompt

    Q random rollouts of R are as good as Q fresh ones, so both are unbiased at Q whatever `advantages`
    is. |g|^2 needs only a prompt's Gram matrix of scores, so further draws cost next to nothing.
    Prompts are never bootstrapped: a duplicate would count as a cross-prompt product. Intervals:
    delete-one-prompt jackknife with Student's quantile, of the ratio on its logarithm; unresolved when S
    or |G|^2, of all prompts or with any one left out, is not positive. A sketch's own error is shared by
    all prompts and not in them (of |G|^2, 6% at W = 4096).

    Advantages that look at the whole batch see one subgroup per prompt; then prompts are coupled by
    about 1/P, and neither S nor the jackknife contains what that adds.

    Args:
        sketch_PRW: f32[P, R, W], of the scores s = d/dtheta sum_t log pi(y_t), not of A s; anything where not kept.
        reward_PR: f32[P, R]; anything where not kept.
        is_kept_PR: bool[P, R]; P >= 3 prompts must have n_rollouts kept.
        advantages: from the rewards of one subgroup per prompt and which of them are kept (all are).
        n_rollouts: Q, from 1 (if `advantages` allows it) to R.
        n_draws: random orders in which every prompt's rollouts are cut into disjoint subgroups.
        seed: of those orders.
    """
    chex.assert_rank([sketch_PRW, reward_PR, is_kept_PR], [3, 2, 2])
    chex.assert_equal_shape_prefix([sketch_PRW, reward_PR, is_kept_PR], 2)
    chex.assert_type([sketch_PRW, reward_PR, is_kept_PR], [np.float32, np.float32, bool])
    sketch_PRW, reward_PR, is_kept_PR = (np.asarray(array) for array in (sketch_PRW, reward_PR, is_kept_PR))
    used_P = _prompts_with(n_rollouts, is_kept_PR)
    n_left_out = len(is_kept_PR) - len(used_P)
    reward_PR, is_kept_PR = reward_PR[used_P], is_kept_PR[used_P]
    gram_PRR = _score_grams(sketch_PRW, used_P, is_kept_PR)
    if not (np.isfinite(reward_PR[is_kept_PR]).all() and np.isfinite(gram_PRR).all()):
        raise ValueError("the reward or sketch of a kept rollout is not finite; set is_kept_PR false where it is not")
    sum_sq_norm_P, sum_weight_PR, n_batches = np.zeros(len(used_P)), np.zeros(reward_PR.shape), 0
    for index_PGQ in _draws(is_kept_PR, n_rollouts, n_draws, seed):
        for index_PQ in np.moveaxis(index_PGQ, 1, 0):
            weight_PR = _weights(reward_PR, index_PQ, advantages)
            sum_sq_norm_P += np.einsum("pr,pr->p", weight_PR, (gram_PRR @ weight_PR[..., None])[..., 0])
            sum_weight_PR += weight_PR
            n_batches += 1
    weights = zip(used_P, sum_weight_PR / n_batches, strict=True)
    mean_PW = np.stack([_weighted_sum(sketch_PRW[x], weight_R) for x, weight_R in weights])
    return _estimates(sum_sq_norm_P / n_batches, mean_PW, n_left_out)


def _prompts_with(n_rollouts: int, is_kept_PR: np.ndarray) -> np.ndarray:
    P, R = is_kept_PR.shape
    if not 1 <= n_rollouts <= R:
        raise ValueError(f"n_rollouts={n_rollouts} is not between 1 and the {R} rollouts drawn per prompt")
    n_kept_P = is_kept_PR.sum(axis=1)
    used_P = np.flatnonzero(n_kept_P >= n_rollouts)
    if len(used_P) < 3:
        most = sorted(n_kept_P)[-3] if P >= 3 else 0
        raise ValueError(
            f"{len(used_P)} of {P} prompts kept n_rollouts={n_rollouts} rollouts and the jackknife needs 3"
            + (f"; use n_rollouts <= {most}" if most else "; measure more prompts")
        )
    return used_P


def _score_grams(sketch_PRW: np.ndarray, used_P: np.ndarray, is_kept_PR: np.ndarray) -> np.ndarray:
    """f64[P, R, R], <s_j, s_k>, 0 where either is not kept. One prompt at a time: no second copy of the sketches."""
    gram_PRR = np.zeros((*is_kept_PR.shape, is_kept_PR.shape[1]))
    for gram_RR, x, is_kept_R in zip(gram_PRR, used_P, is_kept_PR, strict=True):
        kept_KW = sketch_PRW[x][is_kept_R].astype(np.float64)  # centred weights cancel what scores share
        with np.errstate(invalid="ignore"):  # inf - inf is refused by the caller, with a message
            gram_RR[np.ix_(is_kept_R, is_kept_R)] = kept_KW @ kept_KW.T
    return gram_PRR


def _draws(is_kept_PR: np.ndarray, n_rollouts: int, n_draws: int, seed: int):
    """Yields i64[P, G, Q] per draw: disjoint groups of a prompt's kept rollouts, in a random order.

    A prompt with fewer groups than another repeats its own, so that every batch has all prompts.
    """
    if n_draws < 1:
        raise ValueError(f"n_draws={n_draws} must be at least 1")
    rng = np.random.default_rng(seed)
    n_groups_P1 = is_kept_PR.sum(axis=1, keepdims=True) // n_rollouts
    group_PG = np.arange(n_groups_P1.max())[None, :] % n_groups_P1
    place_PGQ = group_PG[..., None] * n_rollouts + np.arange(n_rollouts)[None, None, :]
    for _ in range(n_draws):
        kept_first_PR = np.argsort(np.where(is_kept_PR, rng.random(is_kept_PR.shape), np.inf), axis=1)
        yield np.take_along_axis(kept_first_PR[:, None, :], place_PGQ, axis=2)


def _weights(reward_PR: np.ndarray, index_PQ: np.ndarray, advantages: Advantages) -> np.ndarray:
    """f64[P, R], A / Q at the rollouts of one subgroup per prompt, 0 elsewhere."""
    reward_PQ = np.take_along_axis(reward_PR, index_PQ, axis=1)
    advantage_PQ = np.asarray(advantages(reward_PQ, np.ones(reward_PQ.shape, bool)), np.float64)
    chex.assert_equal_shape([advantage_PQ, reward_PQ])
    if not np.isfinite(advantage_PQ).all():
        raise ValueError("advantages are not finite for finite rewards; a standard deviation of 0 needs eps > 0")
    weight_PR = np.zeros(reward_PR.shape)
    np.put_along_axis(weight_PR, index_PQ, advantage_PQ / index_PQ.shape[1], axis=1)
    return weight_PR


def _weighted_sum(sketch_RW: np.ndarray, weight_R: np.ndarray) -> np.ndarray:
    is_weighed_R = weight_R != 0  # what is not kept may be NaN
    return weight_R[is_weighed_R] @ sketch_RW[is_weighed_R].astype(np.float64)


def _estimates(sq_norm_P: np.ndarray, mean_PW: np.ndarray, n_left_out: int) -> OfflineNoise:
    P = len(sq_norm_P)
    mean_sq_P, total_W = np.einsum("pw,pw->p", mean_PW, mean_PW), mean_PW.sum(axis=0)

    def moments(sum_of_sq, sum_of_mean_sq, sq_of_sum, n: int):
        grad_sq = (sq_of_sum - sum_of_mean_sq) / (n * (n - 1))
        return sum_of_sq / n - grad_sq, grad_sq

    S, G2 = moments(sq_norm_P.sum(), mean_sq_P.sum(), total_W @ total_W, P)
    left_out_S_P, left_out_G2_P = moments(
        sq_norm_P.sum() - sq_norm_P,
        mean_sq_P.sum() - mean_sq_P,
        total_W @ total_W - 2 * mean_PW @ total_W + mean_sq_P,
        P - 1,
    )
    is_resolved = bool(min(S, G2, left_out_S_P.min(), left_out_G2_P.min()) > 0)
    ratio = Estimate(np.nan, np.nan, np.nan)
    if is_resolved:
        log_ratio = _with_jackknife(np.log(S / G2), np.log(left_out_S_P / left_out_G2_P))
        ratio = Estimate(*(float(np.exp(number)) for number in log_ratio))
    grad_sq = _with_jackknife(G2, left_out_G2_P)
    likely_grad_sq = G2 if G2 > 0 else grad_sq.high
    return OfflineNoise(
        trace_cov=_with_jackknife(S, left_out_S_P),
        grad_sq=grad_sq,
        b_noise_prompts=ratio,
        is_resolved=is_resolved,
        prompts_to_resolve=float(2 * S / likely_grad_sq) if S > 0 and likely_grad_sq > 0 else np.nan,
        n_prompts=P,
        n_prompts_left_out=n_left_out,
    )


def _with_jackknife(value: float, left_out_P: np.ndarray) -> Estimate:
    P = len(left_out_P)
    standard_error = np.sqrt((P - 1) / P * np.sum(np.square(left_out_P - left_out_P.mean())))
    half_width = scipy.special.stdtrit(P - 1, 0.975) * standard_error
    return Estimate(float(value), float(value - half_width), float(value + half_width))
