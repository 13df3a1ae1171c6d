"""The loss once more, in Python floats, one token at a time, with its derivatives written by hand.

Options stop gradients here and there, so a finite difference of the loss itself would be wrong. The
slow loss therefore says what each token's log-probability and entropy weigh in the gradient; finite
differences of those two, which hold no options, give the rest.
"""

import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from slow_transformer import slow_logits

from rlvr_jax.train.loss import Batch

CORNER = 1e-5  # a ratio this near to a clip may fall on either side of it in f32: choose other numbers


class SlowLoss(NamedTuple):
    loss_sum: float
    d_logprob_PRT: np.ndarray  # d loss_sum / d log-probability of each token
    d_entropy_PRT: np.ndarray
    sums: dict[str, float]
    maxima: dict[str, float]


def slow_loss(batch: Batch, algo, logprob_PRT, entropy_PRT, *, max_new_tokens: int) -> SlowLoss:
    """Sums of one batch under the options of `algo` (an AlgoConfig)."""
    P, R, T = logprob_PRT.shape
    d_logprob_PRT, d_entropy_PRT = np.zeros((P, R, T)), np.zeros((P, R, T))
    sums, maxima = defaultdict(float), defaultdict(float)
    for p in range(P):
        for r in range(R):
            n, advantage = int(batch.completion_length_PR[p, r]), float(batch.advantage_PR[p, r])
            is_selected = batch.is_selected_PR is None or batch.is_selected_PR[p, r]
            if not (batch.is_kept_PR[p, r] and is_selected):
                continue
            share = 1 / n if algo.averaging == "sequence" else 1.0  # of a token in the sum
            sums["weight"] += {"sequence": 1, "token": n, "constant_length": max_new_tokens}[algo.averaging]
            sums["tokens"] += n
            logprob = [float(logprob_PRT[p, r, t]) for t in range(n)]
            old = (
                logprob if batch.old_logprob_PRT is None else [float(batch.old_logprob_PRT[p, r, t]) for t in range(n)]
            )
            mean_difference = sum(a - b for a, b in zip(logprob, old, strict=True)) / n
            for t in range(n):
                ratio = math.exp(mean_difference if algo.ratio == "sequence" else logprob[t] - old[t])
                loss, slope, direct, side = _policy_term(ratio, advantage, logprob[t], algo)
                behavior = float(batch.behavior_logprob_PRT[p, r, t])
                weight = 1.0
                if algo.importance_cap > 0:
                    weight = math.exp(old[t] - behavior)
                    assert abs(weight - algo.importance_cap) > CORNER
                    sums["mismatch/capped_frac"] += weight > algo.importance_cap
                    weight = min(weight, algo.importance_cap)
                    sums["mismatch/weight_mean"] += weight
                sums["loss/policy"] += share * weight * loss
                d_logprob_PRT[p, r, t] += share * weight * direct
                if algo.ratio == "sequence":  # d ratio / d log-probability, of every token of the rollout
                    for s in range(n):
                        d_logprob_PRT[p, r, s] += share * weight * slope * ratio / n
                else:
                    d_logprob_PRT[p, r, t] += share * weight * slope * ratio
                if batch.reference_logprob_PRT is not None:
                    kl, d_kl = kl_term(logprob[t], float(batch.reference_logprob_PRT[p, r, t]), algo.kl_estimator)
                    sums["loss/kl"] += share * kl
                    d_logprob_PRT[p, r, t] += algo.kl_coef * share * d_kl
                    sums["policy/kl_ref"] += kl_term(logprob[t], float(batch.reference_logprob_PRT[p, r, t]), "k3")[0]
                if algo.entropy_coef > 0:
                    sums["loss/entropy"] += share * float(entropy_PRT[p, r, t])
                    d_entropy_PRT[p, r, t] -= algo.entropy_coef * share
                sums["policy/entropy"] += float(entropy_PRT[p, r, t])
                sums["policy/ratio_mean"] += ratio
                sums["policy/clip_frac_low"] += side == "low"
                sums["policy/clip_frac_high"] += side == "high"
                sums["mismatch/logp_diff_mean"] += abs(old[t] - behavior)
                maxima["policy/ratio_max"] = max(maxima["policy/ratio_max"], ratio)
                maxima["mismatch/logp_diff_max"] = max(maxima["mismatch/logp_diff_max"], abs(old[t] - behavior))
    penalty = algo.kl_coef * sums.get("loss/kl", 0.0) - algo.entropy_coef * sums.get("loss/entropy", 0.0)
    loss_sum = sums["loss/total"] = sums["loss/policy"] + penalty
    return SlowLoss(loss_sum, d_logprob_PRT, d_entropy_PRT, dict(sums), dict(maxima))


def _policy_term(ratio, advantage, logprob, algo):
    """(loss, d loss / d ratio, d loss / d log-probability beside the ratio, which clip cut it), case by case."""
    low, high = 1 - algo.clip_low, 1 + algo.clip_high
    corners = [low, high] + [algo.dual_clip] * (algo.dual_clip > 0)
    assert all(abs(ratio - corner) > CORNER for corner in corners), f"ratio {ratio} is too near to a corner"
    side = "low" if ratio < low else "high" if ratio > high else None
    if algo.objective == "cispo":
        weight = {"low": low, "high": high, None: ratio}[side]
        return -weight * advantage * logprob, 0.0, -weight * advantage, side
    if advantage > 0 and side == "high":
        return -high * advantage, 0.0, 0.0, "high"
    if advantage < 0 and side == "low":
        return -low * advantage, 0.0, 0.0, "low"
    if advantage < 0 and algo.dual_clip > 0 and ratio > algo.dual_clip:
        return -algo.dual_clip * advantage, 0.0, 0.0, "high"
    return -ratio * advantage, -advantage, 0.0, None


def kl_term(logprob, reference, estimator):
    """(estimate, its derivative by the log-probability)."""
    d = reference - logprob
    return {"k1": (-d, 1.0), "k2": (d * d / 2, -d), "k3": (math.exp(d) - d - 1, 1 - math.exp(d))}[estimator]


def slow_logprobs(params, spec, batch: Batch, *, temperature: float):
    """(log-probability, entropy) of every completion token in float64; 0 at pads."""
    logprob_PRT, entropy_PRT = np.zeros(batch.completion_PRT.shape), np.zeros(batch.completion_PRT.shape)
    for p, r in np.ndindex(batch.completion_length_PR.shape):
        n_prompt, n = int(batch.prompt_length_P[p]), int(batch.completion_length_PR[p, r])
        completion = [int(token) for token in batch.completion_PRT[p, r, :n]]
        sequence = [*map(int, batch.prompt_PS[p, :n_prompt]), *completion]
        logits_TV = slow_logits(params, spec, sequence[:-1]) / temperature  # the last token predicts nothing here
        for t, token in enumerate(completion):
            row_V = logits_TV[n_prompt - 1 + t]  # the token before predicts
            log_q_V = row_V - row_V.max() - np.log(np.exp(row_V - row_V.max()).sum())
            logprob_PRT[p, r, t], entropy_PRT[p, r, t] = log_q_V[token], -(np.exp(log_q_V) * log_q_V).sum()
    return logprob_PRT, entropy_PRT


def random_tokens(rng, *, P: int, R: int, S: int, T: int, vocab_size: int) -> Batch:
    """Prompts and completions of every length; all rollouts kept, nothing known about any of them."""
    prompt_length_P = (1 + np.arange(P) % S).astype(np.int32)
    length_PR = (1 + np.arange(P * R).reshape(P, R) % T).astype(np.int32)
    prompt_PS = np.where(np.arange(S) < prompt_length_P[:, None], rng.integers(3, vocab_size, (P, S)), 0)
    completion_PRT = np.where(np.arange(T) < length_PR[..., None], rng.integers(2, vocab_size, (P, R, T)), 0)
    return Batch(
        prompt_PS=prompt_PS.astype(np.int32),
        prompt_length_P=prompt_length_P,
        completion_PRT=completion_PRT.astype(np.int32),
        completion_length_PR=length_PR,
        is_kept_PR=np.ones((P, R), bool),
        advantage_PR=np.zeros((P, R), np.float32),
        loo_advantage_PR=np.full((P, R), np.nan, np.float32),  # no loss may read what the noise is measured with
        behavior_logprob_PRT=np.zeros((P, R, T), np.float32),
        old_logprob_PRT=None,
        reference_logprob_PRT=None,
    )


def with_policies(rng, batch: Batch, logprob_PRT, *, has_old: bool, has_reference: bool) -> Batch:
    """Advantages of both signs; behavior, old and reference policies around `logprob_PRT`, NaN where not trained."""
    P, R, T = logprob_PRT.shape
    is_trained_PRT = (np.arange(T) < batch.completion_length_PR[..., None]) & batch.is_kept_PR[..., None]

    def near(center_PRT, spread_nats):
        moved_PRT = center_PRT + rng.normal(0, spread_nats, (P, R, T))
        return np.where(is_trained_PRT, moved_PRT, np.nan).astype(np.float32)

    old_PRT = near(logprob_PRT, 0.4)
    behavior_PRT, reference_PRT = near(old_PRT if has_old else logprob_PRT, 0.4), near(logprob_PRT, 0.6)
    return batch.replace(
        advantage_PR=np.where(batch.is_kept_PR, rng.normal(size=(P, R)), 0.0).astype(np.float32),
        behavior_logprob_PRT=behavior_PRT,
        old_logprob_PRT=old_PRT if has_old else None,
        reference_logprob_PRT=reference_PRT if has_reference else None,
    )
