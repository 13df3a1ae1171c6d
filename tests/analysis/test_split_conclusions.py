"""Verdicts on N = P R over several targets, at splits that were run."""

import dataclasses
from types import SimpleNamespace

import numpy as np
from simulated_studies import exact, loo_law, simulated, total_law

from rlvr_jax.analysis.compare_laws import compare_laws
from rlvr_jax.analysis.split_conclusions import holm, split_conclusions, split_headlines

SPLITS = [(8, 4), (16, 4), (32, 4), (64, 4), (16, 2), (16, 8), (16, 16)]


def study_of(observations, *, unit="update"):
    targets = tuple(sorted({one.target for one in observations}))
    return SimpleNamespace(groups=[""], targets=targets, observations=observations, unit=unit)


def concluded(observations, **more):
    return split_conclusions(study_of(observations, **more), confidence=0.9, notes=[])


def test_p_is_corrected_for_the_number_of_targets():
    # by hand: 0.01 x 3 = 0.03, 0.02 x 2 = 0.04, 0.5 x 1; and never below an earlier one
    assert holm([0.5, None, 0.01, 0.02]) == [0.5, None, 0.03, 0.04]
    assert holm([0.02, 0.021, 0.9]) == [0.06, 0.06, 0.9]
    assert holm([0.7, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_where_only_the_product_counts_n_suffices_among_the_splits_that_were_run():
    seen = simulated(np.random.default_rng(3), total_law(100, 100), SPLITS, noise=0.04, every=2)
    (split,) = concluded(seen)
    assert split.suffices is True
    assert split.sentence.startswith("0.5: N = P R suffices among the splits that were run: ")
    pairs = [((8, 4), (16, 2)), ((32, 4), (16, 8)), ((64, 4), (16, 16))]
    assert {split.widest.few, split.widest.many} in [set(pair) for pair in pairs]


def test_times_are_counted_in_what_the_study_counts():
    seen = simulated(np.random.default_rng(3), loo_law(100, 20, 20), SPLITS, noise=0.04, every=2)
    for unit, name in (("step", "steps"), ("update", "updates")):
        found = concluded(seen, unit=unit)
        assert f" times the {name} of " in found[0].sentence
        assert f" times the {name} of " in split_headlines(found, unit=unit)[0]


def test_a_target_refused_alone_and_not_among_many_is_no_verdict_either_way(monkeypatch):
    """p = 0.02 at one of five targets: neither "does not suffice" nor "suffices"."""
    one = simulated(np.random.default_rng(3), total_law(100, 100), SPLITS, noise=0.04, every=2, n_seeds=2)
    known = compare_laws(one)
    p_of = {0.5: 0.02, 0.6: 0.9, 0.7: 0.9, 0.8: 0.9, 0.9: 0.9}
    observations = [dataclasses.replace(seen, target=target) for target in p_of for seen in one]
    monkeypatch.setattr(
        "rlvr_jax.analysis.split_conclusions.compare_laws",
        lambda seen, **_: dataclasses.replace(known, p=p_of[seen[0].target]),
    )
    found = concluded(observations)
    assert [split.suffices for split in found] == [None, True, True, True, True]
    assert "p = 0.02 refuses a law in N alone, but not once corrected for 5 targets (0.1)" in found[0].sentence


def test_runs_that_all_got_there_in_one_evaluation_interval_measure_nothing():
    seen = simulated(np.random.default_rng(0), total_law(20, 1), SPLITS, noise=0.01, every=50)
    assert {(one.after, one.by) for one in seen} == {(0, 50)}
    (split,) = concluded(seen)
    assert (split.suffices, split.widest) == (None, None)
    assert "same evaluation interval, (0, 50]; evaluate more often" in split.sentence


def test_without_two_splits_of_one_size_no_ratio_is_quoted():
    seen = exact(loo_law(100, 20, 60), [(7, 4), (11, 4), (33, 4), (64, 4), (16, 2), (17, 8), (19, 16)])
    (split,) = concluded(seen)
    assert split.widest is None
    assert "no two splits of one N" in split.sentence
