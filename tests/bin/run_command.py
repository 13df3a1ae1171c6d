"""The commands in processes of their own, as a person runs them."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib

from rlvr_jax.analysis.read_runs import read_rows

ROOT = Path(__file__).resolve().parents[2]
_LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    """One device, warm starts cached in `folder`, programs compiled quickly and once for all tests."""
    return os.environ | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / "tests" / ".xla_cache"),
        "MPLCONFIGDIR": matplotlib.get_cachedir(),  # else it looks for fonts, which takes seconds
        **more,
    }


def start(
    folder: Path, program: str, *arguments: str, largest_file: int | None = None, **environment: str
) -> subprocess.Popen:
    """bin/`program` in `folder`; beyond `largest_file` bytes nothing can be written, as on a full disk."""
    launcher = [sys.executable, "-c", _LIMITED, str(largest_file)] if largest_file else []
    return subprocess.Popen(
        [*launcher, sys.executable, ROOT / "bin" / program, *arguments],
        cwd=folder,
        env=environment_of(folder, **environment),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code, and what was said on both streams."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def run(folder: Path, program: str, *arguments: str, **environment: str) -> tuple[int, str]:
    return finish(start(folder, program, *arguments, **environment))


def exact_rows(folder: Path) -> list[dict]:
    """metrics.jsonl without times."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds" and not k.startswith("perf/")} for row in rows]
