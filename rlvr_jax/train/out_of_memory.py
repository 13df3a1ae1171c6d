"""A device's memory running out, as one message with the plan's numbers and what to change."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.memory_plan import MemoryPlan, memory_fix, memory_table


@contextlib.contextmanager
def out_of_memory_explained(plan: MemoryPlan, what: Callable[[], str], *, fix: str | None = None) -> Iterator[None]:
    """Raises ConfigError in place of XLA's RESOURCE_EXHAUSTED; any other error passes.

    Args:
        fix: what to change; None: what the plan says is fullest.
        what: is asked once it has happened what was being done, such as "the warm start".
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            [
                f"{what()} ran out of a device's memory ({str(error).splitlines()[0][:200]}); "
                f"{fix or memory_fix(plan)}. Planned was:\n{memory_table(plan)}"
            ]
        ) from error
