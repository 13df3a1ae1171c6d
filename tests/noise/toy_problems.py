"""Two problems whose gradient noise is known exactly, in numpy and without the library."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Truth:
    """What a perfect measurement finds; the covariance of a group's gradient at every number of rollouts."""

    grad_sq: float  # |E grad J_x|^2
    v_prompt: float  # tr Cov(grad J_x)
    zeta1: float
    zeta2: float

    @property
    def q(self) -> tuple[float, float, float]:
        q0 = self.grad_sq + self.v_prompt
        return q0, q0 + self.zeta1, q0 + self.zeta2

    @property
    def r_star(self) -> float:
        return 1 + ((2 * self.zeta2 - 4 * self.zeta1) / self.v_prompt) ** 0.5

    def v_rollout(self, n_rollouts: int) -> float:
        pairs = n_rollouts * (n_rollouts - 1) / 2
        return (2 * (n_rollouts - 2) * self.zeta1 + self.zeta2) / pairs

    def trace_cov(self, n_rollouts: int) -> float:
        return self.v_prompt + self.v_rollout(n_rollouts)

    def b_noise(self, n_rollouts: int) -> float:
        return self.trace_cov(n_rollouts) / self.grad_sq


@dataclass(frozen=True)
class GaussianRewards:
    """Scores s ~ N(0, I) in D dimensions, rewards <b_x, s> + sigma N(0, 1), prompts b_x ~ N(b, Sigma).

    Then grad J_x = E[r s] = b_x. With u = (s_1 - s_2)/sqrt 2 ~ N(0, I), h_12 = (<b_x, u> + sigma n) u, so that
    E|h_12|^2 = |b_x|^2 (D+2) + sigma^2 D; and E[h_12 | 1] = (r_1 s_1 + b_x)/2, whose covariance has the trace
    (E|r s|^2 - |b_x|^2)/4. Both are averaged with E|b_x|^2 = |b|^2 + tr Sigma.
    """

    mean_D: np.ndarray  # b
    prompt_std_D: np.ndarray  # Sigma's diagonal is its square
    reward_std: float  # sigma

    @property
    def truth(self) -> Truth:
        D = len(self.mean_D)
        grad_sq, v_prompt = (self.mean_D**2).sum(), (self.prompt_std_D**2).sum()
        zeta2 = (grad_sq + v_prompt) * (D + 1) + self.reward_std**2 * D
        return Truth(grad_sq, v_prompt, zeta2 / 4, zeta2)

    def draw(self, rng: np.random.Generator, *shape_KPR: int) -> tuple[np.ndarray, np.ndarray]:
        """(score_KPRD, reward_KPR), f32; K batches, every prompt a new one."""
        K, P, R = shape_KPR
        D = len(self.mean_D)
        b_KPD = self.mean_D + self.prompt_std_D * rng.standard_normal((K, P, D), np.float32)
        score_KPRD = rng.standard_normal((K, P, R, D), np.float32)
        noise_KPR = self.reward_std * rng.standard_normal((K, P, R), np.float32)
        reward_KPR = np.einsum("kprd,kpd->kpr", score_KPRD, b_KPD.astype(np.float32)) + noise_KPR
        return score_KPRD, reward_KPR.astype(np.float32)


@dataclass(frozen=True)
class SoftmaxBandit:
    """pi(a | x) = softmax_a(offset_xa + <phi_xa, theta>) at theta = 0, a fixed reward for each context and action.

    Scores are phi_xa - sum_b pi_xb phi_xb. Contexts are drawn uniformly and with replacement. The truth is by
    enumeration of one, two and two independent actions.
    """

    feature_XAD: np.ndarray
    policy_XA: np.ndarray
    reward_XA: np.ndarray

    @property
    def score_XAD(self) -> np.ndarray:
        return self.feature_XAD - np.einsum("xa,xad->xd", self.policy_XA, self.feature_XAD)[:, None]

    @property
    def truth(self) -> Truth:
        score, reward, policy = self.score_XAD, self.reward_XA, self.policy_XA
        gap_XAB = reward[:, :, None] - reward[:, None, :]
        kernel_XABD = 0.5 * gap_XAB[..., None] * (score[:, :, None] - score[:, None, :])
        given_one_XAD = np.einsum("xb,xabd->xad", policy, kernel_XABD)
        gradient_XD = np.einsum("xa,xa,xad->xd", policy, reward, score)
        q2 = np.einsum("xa,xb,xabd->x", policy, policy, kernel_XABD**2).mean()
        q1 = np.einsum("xa,xad->x", policy, given_one_XAD**2).mean()
        q0 = (gradient_XD**2).sum(axis=1).mean()
        grad_sq = (gradient_XD.mean(axis=0) ** 2).sum()
        return Truth(grad_sq, q0 - grad_sq, q1 - q0, q2 - q0)

    def draw(self, rng: np.random.Generator, *shape_KPR: int) -> tuple[np.ndarray, np.ndarray]:
        """(score_KPRD, reward_KPR), f32."""
        K, P, R = shape_KPR
        context_KP1 = rng.integers(0, len(self.policy_XA), (K, P, 1))
        cumulative_XA = self.policy_XA.cumsum(axis=1)[:, :-1]  # without the last, which may round to less than 1
        action_KPR = (rng.random((K, P, R, 1)) > cumulative_XA[context_KP1]).sum(axis=-1)
        score_KPRD = self.score_XAD.astype(np.float32)[context_KP1, action_KPR]
        return score_KPRD, self.reward_XA.astype(np.float32)[context_KP1, action_KPR]


def gaussian_rewards(*, n_params: int, n_rollouts: int, b_noise: float) -> GaussianRewards:
    """One with tr Sigma = 1 and sigma = 1 whose noise scale in prompts at n_rollouts is b_noise."""
    D = n_params

    def with_grad_sq(grad_sq: float) -> GaussianRewards:
        return GaussianRewards(np.full(D, (grad_sq / D) ** 0.5), np.full(D, D**-0.5), 1.0)

    # S is linear in |b|^2, so S = b_noise |b|^2 is, too
    at_0, at_1 = (with_grad_sq(x).truth.trace_cov(n_rollouts) for x in (0.0, 1.0))
    if b_noise <= at_1 - at_0:
        raise ValueError(f"b_noise={b_noise} with {D} parameters: only above {at_1 - at_0:.3g}")
    return with_grad_sq(at_0 / (b_noise - (at_1 - at_0)))


def softmax_bandit(
    *, n_contexts: int, n_actions: int, n_params: int, n_rollouts: int, b_noise: float, seed: int
) -> SoftmaxBandit:
    """A random one with rewards 0 and 1 whose noise scale in prompts at n_rollouts is b_noise.

    Half of the parameters act alike in every context; how strongly decides b_noise.
    """
    rng = np.random.default_rng(seed)
    shared_AD = rng.normal(size=(n_actions, n_params // 2))
    own_XAD = rng.normal(size=(n_contexts, n_actions, n_params - n_params // 2))
    policy_XA = np.exp(2 * rng.normal(size=(n_contexts, n_actions)))  # often one action, as in training
    policy_XA /= policy_XA.sum(axis=1, keepdims=True)
    chance_A = np.where(np.arange(n_actions) % 2, 0.9, 0.1)  # so that the shared parameters have something to learn
    reward_XA = (rng.random((n_contexts, n_actions)) < chance_A).astype(float)

    def with_strength(strength: float) -> SoftmaxBandit:
        shared_XAD = np.broadcast_to(strength * shared_AD, (n_contexts, *shared_AD.shape))
        return SoftmaxBandit(np.concatenate([shared_XAD, own_XAD], axis=2), policy_XA, reward_XA)

    low, high = 0.0, 100.0
    attainable = [with_strength(x).truth.b_noise(n_rollouts) for x in (high, low)]
    if not attainable[0] < b_noise < attainable[1]:
        raise ValueError(f"b_noise={b_noise}: this one has {attainable[0]:.3g} to {attainable[1]:.3g}")
    for _ in range(60):  # the noise scale falls as the shared part grows
        middle = (low + high) / 2
        low, high = (middle, high) if with_strength(middle).truth.b_noise(n_rollouts) > b_noise else (low, middle)
    return with_strength(high)
