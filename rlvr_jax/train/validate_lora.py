"""What cannot work in the settings of an adapter, and what works but may surprise."""

import dataclasses

from rlvr_jax.models.lora import LORA_TARGETS, adapted_matrices
from rlvr_jax.models.spec import ModelSpec
from rlvr_jax.train.config import LORA_RATE_RATIO, LoraConfig, TrainConfig

LEAST_RATE_RATIO = 5.0  # of the rates of an adapter and of full weights, to go without a warning


def lora_problems(lora: LoraConfig) -> list[str]:
    """One message per setting that cannot work with any model, with the fix."""
    known, problems = ", ".join(LORA_TARGETS), []
    if not lora.targets:
        problems.append(f"lora.targets=() leaves nothing to adapt; name some of {known}")
    if unknown := [name for name in lora.targets if name not in LORA_TARGETS]:
        problems.append(f"lora.targets={lora.targets} names {', '.join(map(repr, unknown))}; known are {known}")
    if len(set(lora.targets)) < len(lora.targets):
        problems.append(f"lora.targets={lora.targets} names a matrix twice; name each once")
    return problems


def lora_fit_problems(lora: LoraConfig, spec: ModelSpec) -> list[str]:
    """At most one message: a rank beyond the smaller side of a matrix has more numbers and says no more."""
    if not lora.enabled:
        return []
    sides = {name: min(n_in, n_out) for name, (n_in, n_out) in adapted_matrices(spec, lora.targets).items()}
    narrow = {name: side for name, side in sides.items() if lora.rank > side}
    if not narrow:
        return []
    said = ", ".join(f"{name!r} ({side})" for name, side in narrow.items())
    wide = tuple(name for name in lora.targets if name not in narrow)
    leave_out = f", or lora.targets={wide} without them" if wide else ""
    return [
        f"lora.rank={lora.rank} is more than the smaller side of {said}, where thin factors save nothing; "
        f"use lora.rank={min(narrow.values())} or less{leave_out}"
    ]


def lora_warnings(config: TrainConfig) -> list[str]:
    """What works but may surprise."""
    lora = config.lora
    if not lora.enabled:
        named = [
            f"lora.{field.name}"
            for field in dataclasses.fields(lora)
            if getattr(lora, field.name) != getattr(LoraConfig(), field.name)
        ]
        do = "do" if len(named) > 1 else "does"
        return [f"{' and '.join(named)} {do} nothing while lora.enabled=False"] if named else []
    ratio = config.stated_lr / config.optimizer.peak_lr
    if ratio >= LEAST_RATE_RATIO:
        return []
    return [
        f"{config.peak_lr_text} is {ratio:.3g} times optimizer.peak_lr={config.optimizer.peak_lr}, the rate of full "
        f"weights. At it an adapter learns slowly or not at all, since its product starts at 0 and grows with both "
        f"factors: use about {LORA_RATE_RATIO:g} times, or lora.peak_lr=0 for that"
    ]
