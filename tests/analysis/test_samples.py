import gzip

import pytest
from page_studies import write_completions

from rlvr_jax.analysis.samples import Samples, last_samples


def of(folder, n_prompts=3, n_characters=20):
    return last_samples(folder, n_prompts=n_prompts, n_characters=n_characters)


def test_the_first_rollout_of_the_first_prompts_of_the_last_table(tmp_path):
    earlier = [{"table": "completions", "update": 2, "prompt": "prompt 0 <i>", "completion": "earlier", "reward": 1.0}]
    write_completions(tmp_path, ["one", "two", "three", "four"], update=4, more=earlier)
    found = of(tmp_path)
    assert (found.update, found.note) == (4, "")
    assert [(s.prompt, s.completion, s.reward, s.is_truncated) for s in found.samples] == [
        ("prompt 0 <i>", "one", 0.0, False),
        ("prompt 1 <i>", "two", 0.5, True),
        ("prompt 2 <i>", "three", 1.0, False),
    ]


def test_long_texts_are_cut_and_say_so(tmp_path):
    write_completions(tmp_path, ["y" * 1000])
    assert of(tmp_path).samples[0].completion == "y" * 20 + " … [980 more characters]"


@pytest.mark.parametrize("reward", [None, "high", float("nan")])
def test_a_reward_that_is_no_number_is_none(tmp_path, reward):
    row = {"table": "completions", "update": 9, "prompt": 7, "completion": None, "reward": reward}
    write_completions(tmp_path, [], more=[row])
    (sample,) = of(tmp_path).samples
    assert (sample.prompt, sample.completion, sample.reward) == ("7", "None", None)


def test_a_run_without_completions_says_so(tmp_path):
    assert of(tmp_path) == Samples(None, [], "no rollouts.jsonl.gz")
    write_completions(tmp_path, [])
    assert of(tmp_path) == Samples(None, [], "no completions were written down")


def test_a_file_that_was_cut_shows_what_came_before(tmp_path):
    write_completions(tmp_path, ["one", "two"])
    path = tmp_path / "rollouts.jsonl.gz"
    with gzip.open(path, "at", encoding="utf-8") as file:
        file.write('{"table": "completions", "upda')
    found = of(tmp_path)
    assert [sample.completion for sample in found.samples] == ["one", "two"]
    path.write_bytes(path.read_bytes()[:-30])
    assert of(tmp_path).samples == found.samples or of(tmp_path).note


def test_a_file_of_something_else_shows_nothing(tmp_path):
    (tmp_path / "rollouts.jsonl.gz").write_bytes(b"not gzip at all")
    found = of(tmp_path)
    assert found.samples == []
    assert "could not be read" in found.note
