"""GRPO as pure functions on arrays."""
