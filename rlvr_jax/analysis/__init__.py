"""Reads run directories and tables. No jax here."""
