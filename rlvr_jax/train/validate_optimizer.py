"""What cannot work, or may surprise, in the learning rate of a point and its rule over batch sizes."""

import math
import sys

from rlvr_jax.train.config import LR_POWERS, TrainConfig


def optimizer_problems(config: TrainConfig) -> list[str]:
    """One message per setting that cannot work, with the fix."""
    optimizer, problems = config.optimizer, []
    if LR_POWERS.get(optimizer.lr_rule, 0.0) > 0.0 and optimizer.lr_reference_rollouts == 0:
        problems.append(
            f"optimizer.lr_rule={optimizer.lr_rule!r} scales optimizer.peak_lr from a batch where it is right; set "
            f"optimizer.lr_reference_rollouts to that one's rollouts per update (here it is "
            f"{config.rollouts_per_update})"
        )
    is_usable = all(isinstance(f, (int, float)) and math.isfinite(f) and f > 0 for f in optimizer.lr_grid)
    if not is_usable or len(set(optimizer.lr_grid)) < len(optimizer.lr_grid):
        problems.append(f"optimizer.lr_grid={optimizer.lr_grid} must be different factors above 0, such as (0.5, 1, 2)")
    elif optimizer.lr_rule == "grid" and not optimizer.lr_grid:
        problems.append(
            "optimizer.lr_rule='grid' needs factors of optimizer.peak_lr; set optimizer.lr_grid, such as (0.5, 1, 2)"
        )
    if not problems and optimizer.lr_rule in LR_POWERS and optimizer.lr_reference_rollouts >= 0:
        factors = optimizer.lr_grid if optimizer.lr_rule == "grid" else (1.0,)
        problems += [
            f"{config.peak_lr_text} comes to a rate of {factor * config.peak_lr:g} by optimizer.lr_rule="
            f"{optimizer.lr_rule!r}{f' with the factor {factor:g}' if factor != 1.0 else ''}, which is none; change it"
            for factor in factors
            if 0 < config.stated_lr <= sys.float_info.max and not 0 < factor * config.peak_lr < math.inf
        ]
    goes_on = config.start.checkpoint and config.start.keeps_optimizer
    if goes_on and optimizer.schedule != "constant" and optimizer.decay_updates == 0:
        problems.append(
            f"optimizer.schedule={optimizer.schedule!r} with start.checkpoint goes on where the trunk's was; set "
            "optimizer.decay_updates, counted from the trunk's first update, or start.keeps_optimizer=False"
        )
    return problems


def optimizer_warnings(config: TrainConfig) -> list[str]:
    """What works but may surprise."""
    optimizer, warnings = config.optimizer, []
    if optimizer.lr_grid and optimizer.lr_rule != "grid":
        warnings.append(f"optimizer.lr_grid does nothing with optimizer.lr_rule={optimizer.lr_rule!r}")
    if optimizer.lr_reference_rollouts and LR_POWERS[optimizer.lr_rule] == 0.0:
        warnings.append(f"optimizer.lr_reference_rollouts does nothing with optimizer.lr_rule={optimizer.lr_rule!r}")
    return warnings
