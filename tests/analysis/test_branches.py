"""The critical batch from branches of one checkpoint."""

import json

import numpy as np
import pytest

from rlvr_jax.analysis.branch_text import branch_section, branch_sentence
from rlvr_jax.analysis.branches import branch_studies, branched_critical_batch
from rlvr_jax.analysis.conclusions import conclude
from rlvr_jax.analysis.read_runs import find_runs
from rlvr_jax.analysis.report_text import report_text
from rlvr_jax.analysis.study import read_study

ERRORS = {32: [0.10, 0.12], 64: [0.10, 0.12], 128: [0.20, 0.22]}


def test_a_batch_is_compared_with_all_smaller_ones_that_were_not_worse():
    found = branched_critical_batch(ERRORS, tolerance=0.05)
    # variance within a batch: 2 * 0.01^2 / 1 = 0.0002, pooled over 3 degrees of freedom; t(95%, 3) = 2.35336
    # 64: 0 +- 2.35336 * 0.0141421 * sqrt(1/2 + 1/2); 128: 0.10 +- 2.35336 * 0.0141421 * sqrt(1/2 + 1/4)
    smallest, second, third = found.compared
    assert smallest.verdict is None
    assert (second.difference, second.high) == (pytest.approx(0.0), pytest.approx(0.0332816, rel=1e-5))
    assert (third.difference, third.low) == (pytest.approx(0.1), pytest.approx(0.0711773, rel=1e-5))
    assert [second.verdict, third.verdict] == ["not worse", "worse"]
    assert (found.low, found.high, found.reason) == (64, 128, "")


def test_a_difference_that_seeds_cannot_tell_from_the_tolerance_is_undecided():
    found = branched_critical_batch(ERRORS, tolerance=0.03)  # 64 may be worse by 0.033
    assert [one.verdict for one in found.compared] == [None, "undecided", "worse"]
    assert (found.low, found.high) == (None, 128)
    assert found.reason == "no batch was shown to be as good as a smaller one; more seeds would tell"


@pytest.mark.parametrize(
    ("errors", "ends", "reason"),
    [
        ({32: [0.1, 0.11], 64: [0.1, 0.11]}, (64, None), "larger batches would tell"),
        ({32: [0.1, 0.11], 64: [0.5, 0.51]}, (None, 64), "smaller batches would tell"),
        ({32: [0.1, 0.11], 64: [0.1, 0.11], 128: [0.5, 0.51], 256: [0.1, 0.11]}, (64, 128), "was not worse"),
        ({32: [0.1, 0.11]}, (None, None), "there is one batch size"),
        ({32: [0.1], 64: [0.2]}, (None, None), "every batch has one seed"),
        ({}, (None, None), "there is one batch size"),
    ],
)
def test_what_the_data_cannot_say_is_unresolved_with_what_would_tell(errors, ends, reason):
    found = branched_critical_batch(errors, tolerance=0.05)
    assert (found.low, found.high) == ends
    assert not found.is_resolved
    assert reason in found.reason


def test_a_limit_that_means_nothing_is_refused():
    for wrong in ({"tolerance": -0.1}, {"tolerance": float("nan")}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="must be at least 0"):
            branched_critical_batch(ERRORS, **wrong)
    with pytest.raises(ValueError, match="batch 64 has no value"):
        branched_critical_batch({32: [0.1], 64: []})


def test_where_loss_begins_beyond_a_known_batch_the_bracket_holds_it_and_is_mostly_resolved():
    # error 0.1 up to 256 rollouts, then 0.03 more per doubling; seeds spread by 0.005, half the tolerance
    rng, n_resolved = np.random.default_rng(0), 0
    for _ in range(100):
        errors = {2**k: (0.1 + 0.03 * max(0, k - 8) + 0.005 * rng.normal(size=3)).tolist() for k in range(5, 12)}
        found = branched_critical_batch(errors, tolerance=0.01)
        n_resolved += found.is_resolved
        assert found.low is None or found.low <= 256
        assert found.high is not None
        assert found.high >= 512
    assert n_resolved >= 90


def write_branch(
    folder, *, batch, seed, error, n_updates, trunk="a", rule="sqrt", rate=1e-4, status="finished", miss=0.4
):
    """A branch of 4 rollouts per prompt, evaluated four times, whose training reward is 1 - miss at last."""
    folder.mkdir(parents=True)
    config = {
        "batch.n_prompts": batch // 4, "batch.n_rollouts": 4, "task.name": "t", "seed": seed, "optimizer.lr_rule": rule,
        "optimizer.peak_lr": rate, "n_updates": n_updates, "eval.target_metric": "pass@1",
    }  # fmt: skip
    trunk = {"point": "trunk", "update": 40, "params": trunk, "prompts": 100}
    run = {
        "study": "s",
        "point": folder.name,
        "status": status,
        "config": config,
        "plan": {"peak_lr": rate},
        "trunk": trunk,
    }
    (folder / "run.json").write_text(json.dumps(run))
    quarter = n_updates // 4
    evals = [
        {"update": u, "step": u, "rollouts": u * batch, "eval/t/pass@1": 1 - error - 0.1 * (4 - i)}
        for i, u in enumerate(range(0, n_updates + 1, quarter))
    ]
    rows = [
        {"update": u, "rollouts": u * batch, "reward/mean": 1 - miss - 0.3 * (u <= 3 * quarter)}
        for u in range(1, n_updates + 1)
    ]
    for name, table in (("evals", evals), ("metrics", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))


@pytest.fixture
def branches(tmp_path):
    """32 and 64 rollouts do alike, 128 loses 0.1; 1024 rollouts each."""
    for batch, error in ((32, 0.1), (64, 0.1), (128, 0.2)):
        for seed, chance in ((0, 0.0), (1, 0.002)):
            more = {"error": error + chance, "miss": error + 0.3 + chance, "n_updates": 1024 // batch}
            write_branch(tmp_path / f"b{batch}_s{seed}", batch=batch, seed=seed, **more)
    return tmp_path


def studies_of(folder):
    notes = []
    return branch_studies(find_runs([folder]), notes=notes), notes


def test_branches_are_compared_after_equally_many_rollouts_by_error_and_by_reward(branches):
    (study,), notes = studies_of(branches)
    assert notes == []
    assert (study.trunk, study.update, study.rule, study.rollouts) == ("trunk", 40, "sqrt", 1024.0)
    assert study.by_error.compared[2].values == pytest.approx([0.2, 0.202])
    # the reward of the last quarter alone, whose rows miss 0.3 less
    assert study.by_reward.compared[2].values == pytest.approx([0.5, 0.502])
    for found in (study.by_error, study.by_reward):
        assert (found.low, found.high, found.is_resolved) == (64, 128, True)
    sentence = branch_sentence(study, tolerance=0.01, confidence=0.9)
    assert "branches of trunk at update 40, 1024 rollouts each, 3 batch sizes with 2 seed(s)" in sentence
    assert "by held-out error the critical batch lies between 64 and 128 rollouts per update" in sentence
    table = branch_section([study], tolerance=0.01, confidence=0.9).splitlines()
    assert len(table) == 2 + 2 + 3 + 2  # the sentence, the table, and what such a batch means
    assert "| 128 | 2 | 0.0001 | 0.2010 | +0.1000 [" in table[6]


def test_branches_that_went_further_are_compared_where_all_were_evaluated(branches):
    write_branch(branches / "longer", batch=64, seed=2, error=0.0, n_updates=32)  # 2048 rollouts, evaluated at 1024
    (study,), _ = studies_of(branches)
    assert study.rollouts == 1024.0
    assert study.by_error.compared[1].values == pytest.approx([0.1, 0.102, 0.2])


def test_checkpoints_and_rules_are_kept_apart_and_what_cannot_be_compared_is_said(branches):
    write_branch(branches / "else", batch=64, seed=2, error=0.0, n_updates=16, trunk="b")
    write_branch(branches / "rule", batch=64, seed=2, error=0.0, n_updates=16, rule="constant")
    write_branch(branches / "open", batch=64, seed=2, error=0.0, n_updates=16, status="stopped")
    write_branch(branches / "odd", batch=36, seed=2, error=0.0, n_updates=12, trunk="b")  # 108, 216, 324, 432 rollouts
    studies, notes = studies_of(branches)
    assert [len(study.n_seeds) for study in studies] == [3, 1]
    assert studies[0].n_seeds == {32: 2, 64: 2, 128: 2}
    assert any("open is a branch that is not finished" in note for note in notes)
    assert any("never evaluated after equally many rollouts" in note for note in notes)


def test_of_a_grid_of_rates_each_batch_has_its_best(tmp_path):
    for rate, error in ((1e-4, 0.3), (2e-4, 0.1)):
        for batch in (32, 64):
            for seed in (0, 1):
                write_branch(
                    tmp_path / f"{rate}_{batch}_{seed}", batch=batch, seed=seed, rule="grid", rate=rate,
                    error=error + 0.001 * seed, n_updates=1024 // batch,
                )  # fmt: skip
    (study,), _ = studies_of(tmp_path)
    assert study.rates == {32: 2e-4, 64: 2e-4}
    assert study.by_error.compared[1].values == pytest.approx([0.1, 0.101])


def test_a_study_without_branches_has_none(branches):
    for file in branches.glob("*/run.json"):
        run = json.loads(file.read_text())
        del run["trunk"]
        file.write_text(json.dumps(run))
    assert studies_of(branches) == ([], [])


def test_the_report_of_a_branch_study_says_what_its_branches_say(branches):
    study = read_study([branches])
    conclusions = conclude(study)
    assert conclusions.answer[0].startswith("Branched training (branches of trunk at update 40, 1024 rollouts each")
    text = report_text(study, conclusions)
    assert "## Branches of one checkpoint\n\nBranched training" in text
    assert "| 64 | 2 | 0.0001 | 0.1010 | +0.0000 [" in text
    assert any("what is called final is each one's last evaluation" in note for note in study.notes)
    finals = {point.n_prompts: [run.final_accuracy for run in point.runs] for point in study.points}
    assert finals[8] == pytest.approx([0.9, 0.898])  # after 32 updates, and not after the 8 that the largest batch has
