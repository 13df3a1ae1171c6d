"""Reinforcement learning with verifiable rewards, and the noise of its gradients, in JAX."""
