"""Which package may import which: the arrows of the architecture, read off every file's imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = "rlvr_jax"
ALLOWED = {  # room: what of ours a file in it may import
    "": (),
    "tasks": ("rlvr_jax.tasks",),
    "models": ("rlvr_jax.models",),
    "algo": ("rlvr_jax.algo",),
    "noise": ("rlvr_jax.noise",),
    "analysis": ("rlvr_jax.analysis",),
    "sampling": ("rlvr_jax.sampling", "rlvr_jax.models"),
    "train": tuple(f"rlvr_jax.{r}" for r in ("train", "tasks", "models", "sampling", "algo", "noise", "analysis")),
    "bin": ("rlvr_jax.train", "rlvr_jax.analysis", "rlvr_jax.tasks"),
    "configs": ("rlvr_jax.train.config",),
}
ROOMS_WITHOUT_JAX = ("tasks", "analysis")
BRINGS_JAX = ("jax", "jaxlib", "flax", "optax", "chex", "orbax")
HEAVY = ("torch", "matplotlib", "math_verify", "transformers", "wandb")  # imported where they are used
VAGUE_NAMES = ("utils", "common", "helpers", "base", "misc")


class Import(NamedTuple):
    name: str  # dotted, with the imported name at its end
    line: int
    is_top_level: bool  # happens when the module is imported


def imports(source: str, *, package: str) -> Iterator[Import]:
    """Every import in `source`, a file of `package`, at any depth."""
    yield from _imports_below(ast.parse(source), package=package, is_top_level=True)


def _imports_below(node: ast.AST, *, package: str, is_top_level: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, is_top_level) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parts = package.split(".")
            stem = parts[: len(parts) - child.level + 1] if child.level else []
            module = ".".join([*stem, *([child.module] if child.module else [])])
            yield from (Import(f"{module}.{alias.name}", child.lineno, is_top_level) for alias in child.names)
        elif isinstance(child, ast.Call) and _called(child) in ("import_module", "__import__"):
            names = [argument.value for argument in child.args if isinstance(argument, ast.Constant)]
            yield from (Import(str(name), child.lineno, is_top_level) for name in names[:1])
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _imports_below(child, package=package, is_top_level=is_top_level and not is_function)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def violations(source: str, room: str) -> list[str]:
    """What the imports of a file in `room` break, one line each."""
    found = []
    for name, line, is_top_level in imports(source, package=f"{OURS}.{room}" if room else OURS):
        is_bare = name == OURS and room == "train"  # for its folder; train may import all of its packages anyway
        if is_within(name, (OURS,)) and not is_within(name, ALLOWED[room]) and not is_bare:
            found.append(f"line {line}: {room} must not import {name}")
        if room in ROOMS_WITHOUT_JAX and is_within(name, BRINGS_JAX):
            found.append(f"line {line}: {room} must not import {name}, which is or brings jax")
        if is_top_level and is_within(name, HEAVY):
            found.append(f"line {line}: {name} must be imported inside a function")
    return found


def room_of(path: Path) -> str:
    first, *rest = path.relative_to(ROOT).parts
    if first != OURS:
        return first
    return rest[0] if len(rest) > 1 else ""


def _is_python(path: Path) -> bool:
    return path.suffix == ".py" or (path.suffix == "" and path.is_file() and path.read_bytes().startswith(b"#!"))


FILES = sorted(
    path
    for folder in (OURS, "bin", "configs")
    for path in (ROOT / folder).rglob("*")
    if "__pycache__" not in path.parts and _is_python(path)
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_room_may(path):
    assert violations(path.read_text(encoding="utf-8"), room_of(path)) == []


def test_every_room_has_files_and_was_read():
    assert {room_of(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize(
    ("room", "planted"),
    [
        ("tasks", "import rlvr_jax.train.config"),
        ("tasks", "from rlvr_jax import algo"),
        ("tasks", "from ..train import config"),
        ("tasks", "def f():\n    from jax import numpy"),
        ("tasks", "import optax"),
        ("models", "from rlvr_jax.sampling import decode"),
        ("algo", "from rlvr_jax.models.spec import ModelSpec"),
        ("noise", "def f():\n    import rlvr_jax.algo.advantages"),
        ("analysis", "import rlvr_jax"),
        ("analysis", "import jax.numpy as jnp"),
        ("sampling", "from rlvr_jax.train.state import TrainState"),
        ("sampling", "import importlib\nimportlib.import_module('rlvr_jax.tasks')"),
        ("train", "import torch"),
        ("train", "try:\n    import wandb\nexcept ImportError:\n    pass"),
        ("analysis", "class Figure:\n    from matplotlib import pyplot"),
        ("bin", "from rlvr_jax.algo.advantages import advantages"),
        ("configs", "from rlvr_jax.train.run import run_point"),
        ("configs", "import rlvr_jax.train"),
        ("", "from rlvr_jax.train import config"),
    ],
)
def test_a_planted_violation_is_found(room, planted):
    harmless = "import json\nfrom pathlib import Path\n"
    assert violations(harmless, room) == []
    assert len(violations(harmless + planted, room)) == 1


@pytest.mark.parametrize(
    ("room", "permitted"),
    [
        ("train", "from rlvr_jax.analysis.read_runs import Row\nfrom . import config\nimport rlvr_jax"),
        ("sampling", "from rlvr_jax.models import transformer"),
        ("analysis", "def f():\n    import matplotlib.pyplot"),
        ("analysis", "import jaxtyping_is_another_word"),
        ("configs", "from rlvr_jax.train import config as c\nfrom rlvr_jax.train.config import TrainConfig"),
        ("bin", "from rlvr_jax.train import study"),
    ],
)
def test_a_permitted_import_is_let_through(room, permitted):
    assert violations(permitted, room) == []


def test_no_file_has_a_name_that_says_nothing():
    folders = (OURS, "bin", "configs", "tests", "bench")
    named = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    assert named
    assert [path for path in named if path.stem in VAGUE_NAMES or path.name in VAGUE_NAMES] == []


def test_tasks_and_analysis_load_neither_jax_nor_anything_heavy():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if room_of(path) in ROOMS_WITHOUT_JAX
    ]
    code = f"import sys, {', '.join(modules)}; print([m for m in {BRINGS_JAX + HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
