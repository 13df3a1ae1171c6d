"""The shapes the law may have: S = S_min (1 + a_1 phi_1 + a_2 phi_2 + ..), all coefficients non-negative."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

SHAPES = ("total", "prompts", "rollouts_loo", "rollouts_mean", "loo", "mean", "zeta")


def _columns(shape: str, n_prompts: np.ndarray, n_rollouts: np.ndarray) -> list[np.ndarray]:
    p, r = n_prompts, n_rollouts
    match shape:
        case "total":
            return [1 / (p * r)]
        case "prompts":
            return [1 / p]
        case "rollouts_loo":
            return [1 / (r - 1)]
        case "rollouts_mean":
            return [1 / r]
        case "loo":
            return [1 / p, 1 / (p * (r - 1))]
        case "mean":
            return [1 / p, 1 / (p * r)]
        case "zeta":
            return [1 / p, 1 / (p * r), 1 / (p * r * (r - 1))]
    raise ValueError(f"shape={shape!r} is not one of {', '.join(SHAPES)}")


@dataclass(frozen=True)
class Ratio:
    """A number that is (top . c) / (bottom . c) of the coefficients c, such as B_noise = c_1 / c_0."""

    top: np.ndarray
    bottom: np.ndarray

    def range(self) -> tuple[float, float]:
        """(least, most) that it can be for c >= 0."""
        is_either = (self.top > 0) | (self.bottom > 0)
        each = [t / b if b > 0 else math.inf for t, b in zip(self.top[is_either], self.bottom[is_either], strict=True)]
        return float(min(each)), float(max(each))


def law_columns(shape: str, n_prompts: ArrayLike, n_rollouts: ArrayLike) -> np.ndarray:
    """The basis phi[n, K] of a shape, so that S = phi @ c with c >= 0 and c_0 = S_min.

        total          1, 1/(P R)
        prompts        1, 1/P
        rollouts_loo   1, 1/(R-1)                      P the same everywhere
        rollouts_mean  1, 1/R
        loo            1, 1/P, 1/(P (R-1))             baseline without the rollout itself
        mean           1, 1/P, 1/(P R)
        zeta           1, 1/P, 1/(P R), 1/(P R (R-1))

    The last is V_rollout(R) = (4 (R-2) z1 + 2 z2) / (R (R-1)) = 4 z1 / R + (2 z2 - 4 z1) / (R (R-1)); both parts are
    non-negative because z2 >= 2 z1 for every U-statistic of order 2. It contains the others: `mean` where the last
    coefficient is 0, `loo` where the last two are equal, `total` where only 1/(P R) remains.

    Args:
        n_prompts, n_rollouts: prompts and rollouts per prompt, of one length.

    Raises:
        ValueError: an unknown shape.
    """
    p, r = np.broadcast_arrays(np.asarray(n_prompts, float), np.asarray(n_rollouts, float))
    p, r = p.ravel(), r.ravel()
    with np.errstate(divide="ignore"):  # one rollout takes for ever where its group is its baseline
        return np.stack([np.ones_like(p), *_columns(shape, p, r)], axis=1)


def needs_two_rollouts(shape: str) -> bool:
    """Whether one rollout per prompt lies outside the law: it has no group baseline."""
    return shape in ("loo", "zeta", "rollouts_loo")


def law_terms(shape: str) -> dict[str, Ratio]:
    """The shape's own numbers, each a ratio of coefficients: b_noise in rollouts, alpha in prompts, the others both."""
    if shape == "zeta":
        s_min, alpha, by_r, by_pairs = np.eye(4)
        return {
            "alpha": Ratio(alpha, s_min),
            "z1": Ratio(by_r / 4, s_min),
            "z2": Ratio((by_r + by_pairs) / 2, s_min),
        }
    names = {
        "total": ("b_noise",),
        "prompts": ("alpha",),
        "rollouts_loo": ("beta",),
        "rollouts_mean": ("beta",),
        "loo": ("alpha", "beta"),
        "mean": ("alpha", "beta"),
    }[shape]
    unit = np.eye(1 + len(names))
    return {name: Ratio(unit[1 + k], unit[0]) for k, name in enumerate(names)}


def prompt_cbs_ratio(shape: str, n_rollouts: float) -> Ratio | None:
    """The prompts at which S is twice its least at this many rollouts; None where the shape has no prompts."""
    if shape.startswith("rollouts"):
        return None
    at_one_prompt = law_columns(shape, 1.0, float(n_rollouts))[0]
    unit = np.eye(len(at_one_prompt))
    return Ratio(at_one_prompt - unit[0], unit[0])


def rollout_cbs_ratio(shape: str, n_prompts: float) -> tuple[Ratio, float] | None:
    """(ratio, offset): at `offset + ratio` rollouts S is twice that of infinitely many; None without such a ratio."""
    p = float(n_prompts)
    match shape:
        case "total":
            return Ratio(np.array([0.0, 1 / p]), np.array([1.0, 0.0])), 0.0
        case "rollouts_loo":
            return Ratio(np.array([0.0, 1.0]), np.array([1.0, 0.0])), 1.0
        case "rollouts_mean":
            return Ratio(np.array([0.0, 1.0]), np.array([1.0, 0.0])), 0.0
        case "loo":
            return Ratio(np.array([0.0, 0.0, 1.0]), np.array([p, 1.0, 0.0])), 1.0
        case "mean":
            return Ratio(np.array([0.0, 0.0, 1.0]), np.array([p, 1.0, 0.0])), 0.0
    return None  # prompts: no rollouts; zeta: the root of a quadratic
