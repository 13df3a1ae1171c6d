"""Results as bin/noise writes them, made up by hand."""

import math

ZETA1, ZETA2 = 0.05, 0.8
REASON = "prompt and rollout noise need at least 4 rollouts per prompt, there are 2"


def v_rollout(R):
    return 4 * (R - 2) / (R * (R - 1)) * ZETA1 + 2 / (R * (R - 1)) * ZETA2


def total_of(S, grad_sq, *, P, R, is_resolved=True):
    """A noise scale, with what is counted of the whole measurement."""
    B = S / grad_sq
    scales = {"b_noise_prompts": B, "b_noise_rollouts": B * R, "noise_to_signal": B / P}
    return {
        "trace_cov": S / P, "trace_cov_group": S, "grad_sq": grad_sq, "resolved": is_resolved,
        "ci": {name: [0.8 * scale, 1.25 * scale] if is_resolved else None for name, scale in scales.items()},
        "prompts_to_resolve": None if is_resolved else 1234.4, "effective_prompts": 201, "n_nonfinite_rollouts": 0,
        "n_nonfinite_prompts": 0, "n_ungraded_prompts": 0,
    } | {name: scale if is_resolved else None for name, scale in scales.items()}  # fmt: skip


def make_result(*, P=256, R=32, V=0.04, is_resolved=True):
    """V_prompt 0.04 and V_rollout(32) = 0.1/16.5 + 0.1/62 = 0.00766: S = 0.0477. R* = 1 + sqrt(1.4 / 0.04) = 6.92."""
    S, r_star = V + v_rollout(R), 1 + math.sqrt(1.4 / abs(V))
    predicted = []
    for p in sorted({P} | {2**k for k in range(6, 13)}):
        for r in sorted({R} | {2**k for k in range(1, 8)}):
            noise = (V + v_rollout(r)) / p
            predicted.append(
                {"n_prompts": p, "n_rollouts": r, "trace_cov": noise, "lo": 0.8 * noise, "hi": 1.2 * noise}
            )
    return {
        "n_prompts": P, "n_rollouts": R, "policy": "runs/digits/np256 update 120", "n_problems": 18_000,
        "total": total_of(S, 0.002, P=P, R=R, is_resolved=is_resolved),
        "per_group": {
            "embedding": total_of(0.25 * S, 0.001, P=P, R=R, is_resolved=is_resolved),
            "mlp": total_of(0.75 * S, 0.001, P=P, R=R, is_resolved=False),
        },
        "adam": None,
        "decompose_refused": None,
        "decompose": {
            "v_prompt": {"value": V, "ci": [0.7 * V, 1.3 * V]}, "zeta1": {"value": ZETA1, "ci": [0.04, 0.06]},
            "zeta2": {"value": ZETA2, "ci": [0.7, 0.9]}, "r_star": {"value": r_star, "ci": [5.2, 9.7]},
            "resolved": True, "critical_rollouts": 9.41,
            "best_rollouts_by_cost": {"cost_per_prompt": 1.0, "cost_per_rollout": 0.25, "n_rollouts": 11},
        },
        "predicted": predicted,
    }  # fmt: skip


def unresolved_result(**change):
    result = make_result(is_resolved=False, **change)
    result["decompose"] |= {
        "resolved": False, "r_star": {"value": None, "ci": None}, "critical_rollouts": None,
        "best_rollouts_by_cost": None,
    }  # fmt: skip
    result["decompose"]["v_prompt"]["ci"] = [-0.01, 0.09]
    return result


def refused_result(**change):
    return make_result(R=2, **change) | {"decompose": None, "decompose_refused": REASON, "predicted": []}
