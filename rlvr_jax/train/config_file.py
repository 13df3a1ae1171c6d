"""From a command line to the points of a study.

A file in `configs/` has `get_config(arg=None) -> TrainConfig` and, for a study, `sweep(arg=None)`:
a list of {dotted field: value}, one per point. Overrides are checked here first, because the
messages of the flag library name neither the nearest field nor the fix.
"""

import contextlib
import copy
import dataclasses
import difflib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import config_flags

from rlvr_jax.train import config as config_module
from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields, set_field, unknown_field
from rlvr_jax.train.validate_optimizer import optimizer_problems

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
_OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=(.*))?$", re.DOTALL)


def load_points(argv: list[str], flag_values: flags.FlagValues) -> list[TrainConfig]:
    """The configs of all points named by a command line.

    Args:
        argv: as sys.argv, with --config=FILE[:ARG] and any --config.FIELD=VALUE.
        flag_values: holds the caller's other flags; `config` is defined here.

    Raises:
        ConfigError: no --config, no such file, an unknown or mistyped field, a filter that leaves no point.
    """
    config_argument, argv = _taken_config(argv)
    path, arg = _resolved(config_argument)
    with _faults_named(path):
        module = _load_module(path)
        base = module.get_config(arg)
    if not isinstance(base, TrainConfig):
        raise ConfigError([f"get_config of {path} must return a TrainConfig, got {type(base).__name__}"])
    overrides = _overrides(argv)
    problems = [problem for name, text in overrides for problem in _override_problems(name, text, base)]
    names = [name for name, _ in overrides]
    problems += [f"config.{name} is given twice; keep one" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise ConfigError(problems)

    config_flags.DEFINE_config_dataclass("config", base, flag_values=flag_values, sys_argv=argv)
    try:
        rest = flag_values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise ConfigError([" ".join(str(error).split())]) from error
    if len(rest) > 1:
        raise ConfigError(
            [f"unexpected argument(s) {' '.join(rest[1:])}; flags start with -- and hold their value after ="]
        )
    with _faults_named(path):
        sweep = module.sweep(arg) if hasattr(module, "sweep") else [{}]
    points = _points(flag_values.config, sweep, dict(overrides), path)
    return [rated for point in points for rated in _at_each_rate(point)]


def _points(
    config: TrainConfig, sweep: list[dict[str, Any]], overrides: dict[str, str], path: Path
) -> list[TrainConfig]:
    """The config with each of the sweep's changes; an override of a swept field keeps the points that agree."""
    points = []
    for changes in sweep:
        point = copy.deepcopy(config)
        for field, value in changes.items():
            if field not in overrides:
                set_field(point, field, value)
        if all(flat_fields(point)[field] == value for field, value in changes.items() if field in overrides):
            points.append(point)
    if not points:
        swept = {field for changes in sweep for field in changes}
        asked = ", ".join(f"config.{name}={value}" for name, value in overrides.items() if name in swept)
        raise ConfigError([f"no point of the sweep in {path} has {asked}; leave that override out to see all points"])
    return points


def _at_each_rate(point: TrainConfig) -> list[TrainConfig]:
    """The point once per factor of optimizer.lr_grid, each with its rate in its name."""
    rates = (point.optimizer.peak_lr, point.lora.peak_lr)
    is_typed = isinstance(point.optimizer.lr_grid, tuple) and all(isinstance(rate, (int, float)) for rate in rates)
    if point.optimizer.lr_rule != "grid" or not is_typed or optimizer_problems(point):  # which validating says
        return [point]
    rated = []
    for factor in point.optimizer.lr_grid:
        copied = copy.deepcopy(point)
        for group in (copied.optimizer, copied.lora):
            group.peak_lr = float(f"{factor * group.peak_lr:.12g}")  # 5e-6, not 4.9999999999999996e-06
        if point.point:
            copied.point = f"{point.point}_lr{copied.peak_lr:g}"
        rated.append(copied)
    return rated


def choose_point(points: list[TrainConfig], *, name: str | None, index: int | None) -> list[TrainConfig]:
    """All points, or the one called `name`, or number `index`. Raises ConfigError if there is none such."""
    if name is None and index is None:
        return points
    names = [point.point_name for point in points]
    if name is not None and index is not None:
        raise ConfigError([f"--point={name} and --index={index} both name a point; keep one"])
    if name is not None:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"points are {', '.join(names)}"
            raise ConfigError([f"--point={name} is no point of this study; {hint}"])
        index = names.index(name)
    if not 0 <= index < len(points):
        raise ConfigError([f"--index={index} lies outside 0..{len(points) - 1}, the points of this study"])
    return [points[index]]


def _taken_config(argv: list[str]) -> tuple[str, list[str]]:
    """The value of --config, and the arguments without it."""
    found, rest, arguments = [], [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            found.append(value if equals else next(arguments, ""))
        else:
            rest.append(argument)
    if len(found) > 1:
        raise ConfigError([f"--config is given {len(found)} times ({', '.join(found)}); keep one"])
    if not found or not found[0]:
        raise ConfigError([f"--config=FILE is missing; {CONFIG_FOLDER} has {_known_configs()}"])
    return found[0], rest


def _resolved(config_argument: str) -> tuple[Path, str | None]:
    """The file, from the current folder or else from configs/, and what follows the colon."""
    file, _, arg = config_argument.partition(":")
    candidates = [Path(file), CONFIG_FOLDER / file]
    if not file.endswith(".py"):
        candidates += [candidate.with_name(candidate.name + ".py") for candidate in candidates]
    for candidate in candidates:
        if candidate.is_file():
            return candidate, arg or None
    raise ConfigError([f"--config={file}: no such file here or in {CONFIG_FOLDER} (it has {_known_configs()})"])


def _known_configs() -> str:
    return ", ".join(sorted(path.name for path in CONFIG_FOLDER.glob("[!_]*.py")))


def _overrides(argv: list[str]) -> list[tuple[str, str]]:
    """Every override as (dotted field, its text), in the order given."""
    found = []
    for i, argument in enumerate(argv):
        match = _OVERRIDE.match(argument)
        if match:
            following = argv[i + 1] if i + 1 < len(argv) else ""
            found.append((match[1], following if match[2] is None else match[2]))
    return found


def _override_problems(name: str, text: str, base: TrainConfig) -> list[str]:
    fields = flat_fields(base)
    if name not in fields:
        return [unknown_field(name, base)]
    wanted = type(fields[name])
    if wanted in (int, float):
        try:
            wanted(text)
        except ValueError:
            what = {int: "a whole number", float: "a number"}[wanted]
            return [f"config.{name}={text} must be {what}, such as {fields[name]}"]
    return []


@contextlib.contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    """Turns what a config file raises into one message with the line."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # the file is the user's: anything may be wrong with it
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else max(lines[-1:], default=None)
        at = "" if line is None else f" line {line}"
        raise ConfigError([f"{path}{at}: {type(error).__name__}: {error}{_meant(error)}"]) from error


def _meant(error: Exception) -> str:
    """The nearest field, where a config class was given one that it does not have."""
    found = re.fullmatch(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    kind = found and getattr(config_module, found[1], None)
    if not dataclasses.is_dataclass(kind):
        return ""
    nearest = difflib.get_close_matches(found[2], [field.name for field in dataclasses.fields(kind)], n=1, cutoff=0.0)
    return f"; did you mean {nearest[0]}?"


@contextlib.contextmanager
def _importable_neighbours(folder: Path) -> Iterator[None]:
    """Lets a config import what lies beside it, and forgets it again: another folder may have a file of that name."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == folder.resolve():
                del sys.modules[name]


def _load_module(path: Path) -> ModuleType:
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    with _importable_neighbours(path.parent):
        module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError([f"{path} has no get_config(arg=None)"])
    return module
