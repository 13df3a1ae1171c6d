"""Text in, reward out. No jax here."""
