"""Composes tasks, models, sampling, algo and noise into runs."""
