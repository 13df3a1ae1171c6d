"""Gradient noise as pure functions on arrays."""
