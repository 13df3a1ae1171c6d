"""Per-token losses to (sum, weight). Nothing here divides by a batch: one place does, globally."""

import chex
import jax
import jax.numpy as jnp

AVERAGING_KINDS = ("sequence", "token", "constant_length")


def loss_sum_and_weight(
    loss_NT: jax.Array, is_trained_NT: jax.Array, *, kind: str, max_length: int
) -> tuple[jax.Array, jax.Array]:
    """The two scalars whose quotient over the whole batch is the loss.

        sequence         sum = sum_n (mean over n's tokens),  weight = N'                 GRPO, arXiv:2402.03300
        token            sum = sum over all tokens,           weight = number of tokens   DAPO, arXiv:2503.14476
        constant_length  sum = sum over all tokens,           weight = N' * max_length    Dr. GRPO, arXiv:2503.20783

    N' counts the rows that have a trained token: one without any was left out of the batch. Sums and
    weights of micro-batches add up to those of the batch, so the quotient does not depend on how the
    batch was cut.

    Args:
        loss_NT: f32[N, T].
        is_trained_NT: bool[N, T]; false places count for nothing, whatever they hold (NaN included).
        kind: one of AVERAGING_KINDS.
        max_length: tokens; only constant_length reads it.
    """
    chex.assert_rank([loss_NT, is_trained_NT], 2)
    chex.assert_equal_shape([loss_NT, is_trained_NT])
    chex.assert_type([loss_NT, is_trained_NT], [jnp.float32, bool])
    kept_NT = jnp.where(is_trained_NT, loss_NT, 0.0)
    n_tokens_N = is_trained_NT.sum(axis=1).astype(jnp.float32)
    n_rows = (n_tokens_N > 0).sum().astype(jnp.float32)
    if kind == "sequence":
        return jnp.sum(kept_NT.sum(axis=1) / jnp.maximum(n_tokens_N, 1.0)), n_rows
    if kind == "token":
        return kept_NT.sum(), n_tokens_N.sum()
    if kind == "constant_length":
        return kept_NT.sum(), n_rows * max_length
    raise ValueError(f"averaging kind {kind!r} is not one of {AVERAGING_KINDS}")
