"""Where things are kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Of warm starts, compiled programs and what judges said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlvr_jax"
