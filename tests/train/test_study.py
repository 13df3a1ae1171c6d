"""All points of a study, before the first one starts."""

import copy

import pytest

from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.stop import StopRequest
from rlvr_jax.train.study import run_study


def test_data_that_cannot_be_had_are_asked_for_once(tiny_config, tmp_path, monkeypatch):
    asked = []

    def build_task(config):
        asked.append(config.operators)
        raise ConfigError([f"task {config.operators!r} is out of reach"])

    monkeypatch.setattr("rlvr_jax.train.assemble.build_task", build_task)
    points = [copy.deepcopy(tiny_config) for _ in range(3)]
    points[1].seed, points[2].seed, points[2].task.operators = 1, 2, "-"
    with pytest.raises(ConfigError) as raised:
        run_study(points, tmp_path, stop=StopRequest(), say=print)
    assert asked == ["+", "-"]
    assert raised.value.problems == ["task '+' is out of reach", "task '-' is out of reach"]
    assert list(tmp_path.iterdir()) == []
