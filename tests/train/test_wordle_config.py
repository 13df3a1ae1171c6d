"""The Wordle study: its arithmetic, and that every size of it could run."""

import pytest
from absl import flags

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.config_file import load_points
from rlvr_jax.train.validate import validate


def point_of(config):
    (point,) = load_points(["bin/train", f"--config={config}"], flags.FlagValues())
    return point


@pytest.mark.parametrize(("size", "n_turns"), [("", 6), (":single", 1), (":tiny", 4), (":tiny1", 1)])
def test_every_size_is_valid(size, n_turns):
    point = point_of(f"wordle.py{size}")
    validate(point)
    assert point.task.n_turns == n_turns
    assert point.task.n_words == 75


def test_2100_steps_are_70_passes_over_60_words_with_the_studys_milestones():
    point = point_of("wordle.py")
    assert point.n_updates * point.batch.n_prompts == 70 * 60
    assert point.eval.milestones == (500, 1000, 1500, 2100)
    assert (point.eval.every_updates, point.checkpoint.every_updates, point.checkpoint.keep_newest) == (100, 100, 10)
    assert point.checkpoint.keep_best == 1


@pytest.mark.parametrize("size", ["", ":single"])
def test_writing_until_it_is_cut_earns_less_than_a_lost_game_that_ends(size):
    point = point_of(f"wordle.py{size}")
    best_of_a_cut_one = 0.5 + 0.5  # format and feedback, without the word
    assert point.algo.truncated == "penalise"
    assert best_of_a_cut_one - point.algo.truncated_penalty <= 0


def test_the_tiny_games_fit_their_tokens_exactly():
    point = point_of("wordle.py:tiny")
    point.placement.data = 1
    assert assemble(point).turn_tokens == 6  # five letters and EOS
    assert assemble(point).plan.n_evaluations == 1 + 4  # every 20, where the milestones are, too
    point.eval.milestones = (20, 25, 80)
    assert assemble(point).plan.n_evaluations == 1 + 4 + 1


def test_an_unknown_size_is_refused():
    with pytest.raises(ConfigError, match="tiny1"):
        point_of("wordle.py:huge")
