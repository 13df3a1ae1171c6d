"""From a command line to the points of a study.

A file in `configs/` has `get_config(arg=None) -> TrainConfig` and, for a study, `sweep(arg=None)`:
a list of {dotted field: value}, one per point. Overrides are checked here first, because the
messages of the flag library name neither the nearest field nor the fix.
"""

import copy
import difflib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import config_flags

from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields, set_field, unknown_field

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
_OVERRIDE = re.compile(r"--?config\.([A-Za-z0-9_.]+)(?:=(.*))?$", re.DOTALL)


def load_points(argv: list[str], flag_values: flags.FlagValues) -> list[TrainConfig]:
    """The configs of all points named by a command line.

    Args:
        argv: as sys.argv, with --config=FILE[:ARG] and any --config.FIELD=VALUE.
        flag_values: holds the caller's other flags; `config` is defined here.

    Raises:
        ConfigError: no --config, no such file, an unknown or mistyped field, a filter that leaves no point.
    """
    argv = _with_config_path(argv)
    config_argument = _config_argument(argv)
    path, _, arg = config_argument.partition(":")
    module = _load_module(Path(path))
    overrides = _overrides(argv)
    base = _call(module, "get_config", arg or None)
    if not isinstance(base, TrainConfig):
        raise ConfigError([f"get_config of {path} must return a TrainConfig, got {type(base).__name__}"])
    unknown = [unknown_field(name, base) for name in overrides if name not in flat_fields(base)]
    if unknown:
        raise ConfigError(unknown)

    config_flags.DEFINE_config_file("config", flag_values=flag_values, sys_argv=argv)
    try:
        rest = flag_values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise ConfigError([_plain(error)]) from error
    if len(rest) > 1:
        raise ConfigError(
            [f"unexpected argument(s) {' '.join(rest[1:])}; flags start with -- and hold their value after ="]
        )
    config = flag_values.config
    points = []
    for changes in _call(module, "sweep", arg or None) if hasattr(module, "sweep") else [{}]:
        point = copy.deepcopy(config)
        for field, value in changes.items():
            if field not in overrides:
                set_field(point, field, value)
        # an override of a swept field keeps the points that agree with it
        if all(flat_fields(point)[field] == value for field, value in changes.items() if field in overrides):
            points.append(point)
    if not points:
        swept = ", ".join(f"config.{name}={value}" for name, value in overrides.items())
        raise ConfigError([f"no point of the sweep in {path} has {swept}; leave that override out to see all points"])
    return points


def choose_point(points: list[TrainConfig], *, name: str | None, index: int | None) -> list[TrainConfig]:
    """All points, or the one called `name`, or number `index`. Raises ConfigError if there is none such."""
    if name is None and index is None:
        return points
    names = [point.point_name for point in points]
    if name is not None:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"points are {', '.join(names)}"
            raise ConfigError([f"--point={name} is no point of this study; {hint}"])
        index = names.index(name)
    if not 0 <= index < len(points):
        raise ConfigError([f"--index={index} lies outside 0..{len(points) - 1}, the points of this study"])
    return [points[index]]


def _with_config_path(argv: list[str]) -> list[str]:
    """`--config=smoke.py` as `--config=<configs>/smoke.py`, unless the file is in the current folder."""
    out = []
    for i, argument in enumerate(argv):
        is_value = i > 0 and argv[i - 1] in ("--config", "-config")
        name, equals, value = argument.partition("=")
        if is_value:
            out.append(_resolved(argument))
        elif equals and name in ("--config", "-config"):
            out.append(f"--config={_resolved(value)}")
        else:
            out.append(argument)
    return out


def _resolved(config_argument: str) -> str:
    file, colon, arg = config_argument.partition(":")
    candidates = [Path(file), CONFIG_FOLDER / file]
    if not file.endswith(".py"):
        candidates += [candidate.with_name(candidate.name + ".py") for candidate in candidates]
    for candidate in candidates:
        if candidate.is_file():
            return f"{candidate}{colon}{arg}"
    known = ", ".join(sorted(p.name for p in CONFIG_FOLDER.glob("*.py")))
    raise ConfigError([f"--config={file}: no such file here or in {CONFIG_FOLDER} (it has {known})"])


def _config_argument(argv: list[str]) -> str:
    for i, argument in enumerate(argv):
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
        if argument in ("--config", "-config") and i + 1 < len(argv):
            return argv[i + 1]
    known = ", ".join(sorted(p.name for p in CONFIG_FOLDER.glob("*.py")))
    raise ConfigError([f"--config=FILE is missing; {CONFIG_FOLDER} has {known}"])


def _overrides(argv: list[str]) -> dict[str, str]:
    """Dotted field to the text it is overridden with."""
    found = {}
    for i, argument in enumerate(argv):
        match = _OVERRIDE.match(argument)
        if match:
            following = argv[i + 1] if i + 1 < len(argv) else ""
            found[match[1]] = following if match[2] is None else match[2]
    return found


def _load_module(path: Path) -> ModuleType:
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError([f"{path} has no get_config(arg=None)"])
    return module


def _call(module: ModuleType, function: str, arg: str | None) -> Any:
    return getattr(module, function)(arg)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())
