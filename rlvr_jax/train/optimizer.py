"""AdamW, its schedule, and which parameters decay."""

import flax.traverse_util
import optax

from rlvr_jax.models.spec import Parameter, does_decay


def learning_rate(*, peak_lr: float, warmup_updates: int, schedule: str, decay_updates: int) -> optax.Schedule:
    """Linear warm-up to `peak_lr`, then constant, or down to 0 at `decay_updates`.

    The first update already has a rate above 0: peak_lr / warmup_updates.
    """
    n_decay = max(1, decay_updates - warmup_updates)
    after = {
        "constant": optax.constant_schedule(peak_lr),
        "linear": optax.linear_schedule(peak_lr, 0.0, n_decay),
        "cosine": optax.cosine_decay_schedule(peak_lr, n_decay),
    }[schedule]
    if warmup_updates == 0:
        return after
    # starts at 1/warmup, not 0: a rate of 0 would waste the first collection
    warmup = optax.linear_schedule(peak_lr / warmup_updates, peak_lr, max(1, warmup_updates - 1))
    return optax.join_schedules([warmup, after], [warmup_updates])


def adamw(
    table: dict[str, Parameter],
    schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    momentum_dtype: str,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) on gradients clipped to a global norm; clip_norm 0 leaves them alone.

    Of the parameters in `table`. Decay pulls matrices to 0: both factors of an adapter, and so the policy to that
    without it.

    Args:
        momentum_dtype: of m; v stays fp32, because bfloat16 has no number 1% above another to add to it.
    """
    mask = flax.traverse_util.unflatten_dict({path: does_decay(path) for path in table}, sep="/")
    adam = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, mu_dtype=momentum_dtype, weight_decay=weight_decay, mask=mask)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adam) if clip_norm > 0 else adam
