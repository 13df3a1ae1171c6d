"""A whole run whose rollouts have several turns, by a policy that writes digits and so never a word."""

import gzip
import json

import pytest

from rlvr_jax.train.config import TaskConfig


def test_games_are_played_graded_logged_and_reported_at_milestones(tiny_config, tmp_path, start):
    tiny_config.n_updates, tiny_config.eval.every_updates, tiny_config.eval.milestones = 2, 0, (1,)
    tiny_config.task = TaskConfig(name="wordle", n_words=10, n_turns=2)
    tiny_config.sampling.max_new_tokens, tiny_config.noise.every_updates = 19, 0
    tiny_config.eval.n_problems, tiny_config.log.rollouts_every_updates = 2, 1
    assert start(tiny_config, tmp_path) == "finished"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evals = [json.loads(line) for line in (tmp_path / "evals.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [1, 2]
    assert [row["update"] for row in evals] == [0, 1]  # the start and the milestone
    assert "milestone/format" not in evals[0]
    assert evals[1]["milestone/format"] == pytest.approx(rows[0]["rewards/format/mean"])
    assert evals[1]["milestone/reward"] == pytest.approx(rows[0]["reward/mean"])
    assert {"eval/wordle/reward", "eval/wordle/rewards/win", "eval/wordle/pass@1"} <= evals[1].keys()
    with gzip.open(tmp_path / "rollouts.jsonl.gz", "rt") as lines:
        tables = [json.loads(line) for line in lines]
    games = [row for row in tables if row["table"] == "completions"]
    assert any("\nxxxxx\n" in game["completion"] for game in games)  # a second turn after what is no word
    assert max(game["length_tokens"] for game in games) <= 2 * 6  # the reply of 7 tokens is not the policy's
    for row in rows:
        assert row["completions/max_length"] <= 12
        assert row["mismatch/logp_diff_max"] < 1e-4
        assert row["tokens"] > row["rollouts"] * row["completions/mean_length"]
