"""What a study allows one to say: the law per target, prompts against rollouts, and under what it holds."""

import numpy as np
import pytest
from written_runs import write_run

from rlvr_jax.analysis.conclusions import conclude
from rlvr_jax.analysis.report_text import report_text
from rlvr_jax.analysis.study import read_study

TARGET = 0.5
P1, P2B = [(8, 4), (16, 4), (32, 4), (64, 4)], [(16, 2), (16, 8), (16, 16)]


def write_law(root, splits, law, *, n_seeds=3, **config):
    """Runs whose accuracy crosses TARGET after `law(P, R)` updates, up to 6% of luck; one update per step."""
    rng = np.random.default_rng(0)
    for n_prompts, n_rollouts in splits:
        for seed in range(n_seeds):
            at = law(n_prompts, n_rollouts) * (1 + 0.03 * rng.uniform(-2, 2))
            accuracies = [min(0.9, TARGET * 2 * i / at) for i in range(100)]  # evaluated every 2 updates
            write_run(
                root, point=f"np{n_prompts}_nr{n_rollouts}_s{seed}", split=(n_prompts, n_rollouts), seed=seed,
                accuracies=accuracies, updates_per_step=1, **{"eval.targets": [TARGET]} | config,
            )  # fmt: skip


def total(P, R):  # B_noise 100, S_min 20
    return 20 * (1 + 100 / (P * R))


def prompts_alone(P, R):  # rollouts of one prompt say nothing new; at R = 4 as `total`
    return 20 * (1 + 25 / P)


@pytest.fixture(scope="module")
def one_phase(tmp_path_factory):
    root = tmp_path_factory.mktemp("p1")
    write_law(root, P1, total)
    study = read_study([root])
    return study, conclude(study)


@pytest.fixture(scope="module")
def two_phases(tmp_path_factory):
    root = tmp_path_factory.mktemp("both")
    write_law(root / "p1", P1, prompts_alone, study="p1")
    write_law(root / "p2b", P2B, prompts_alone, study="p2b")
    study = read_study([root / "p1", root / "p2b"])
    return study, conclude(study)


def test_the_critical_batch_is_found_with_its_interval_and_the_runs_behind_it(one_phase):
    _, found = one_phase
    (law,) = found.laws
    estimate = law.fit.fit.b_noise
    assert estimate.low < 100 < estimate.high
    assert estimate.high / estimate.low < 1.5
    assert f"The critical batch size is {estimate.value:.3g} [{estimate.low:.3g}, " in found.answer[0]
    assert f"{estimate.value:.3g} rollouts [{estimate.low:.3g}, {estimate.high:.3g}]" in law.sentence
    assert "12 of 12 runs" in law.sentence


def test_where_rollouts_do_not_vary_nothing_is_said_of_them(one_phase):
    _, found = one_phase
    assert found.splits == []
    assert found.split_sentence.startswith(
        "Whether N = P R suffices cannot be said: rollouts per prompt are 4 throughout. Runs that vary both"
    )
    assert found.split_sentence in found.answer


def test_a_law_in_prompts_alone_refuses_their_product(two_phases):
    _, found = two_phases
    (split,) = found.splits
    assert split.suffices is False
    assert split.p == split.comparison.p  # one target is one test
    assert split.rollouts == (2, 16)
    # of the sizes run twice (8 x 4 and 16 x 2, 16 x 8 and 32 x 4, 16 x 16 and 64 x 4) the last differs most
    assert (split.widest.few, split.widest.many) == ((64, 4), (16, 16))
    truth = (1 + 25 / 16) / (1 + 25 / 64)
    assert split.widest.ratio.low < truth < split.widest.ratio.high
    assert "256 rollouts differ most, where 16 x 16 takes 1." in split.sentence
    assert " times the updates of 64 x 4" in split.sentence
    (headline,) = [sentence for sentence in found.headline if sentence.startswith("N = P R")]
    assert headline.startswith("N = P R does not suffice at 0.5: of splits that were run, 16 x 16 takes 1.")
    assert " times the updates of 64 x 4. A critical batch in P R alone is then one of the mixture" in headline


def test_critical_prompts_are_those_of_the_law_whatever_the_rollouts(two_phases):
    _, found = two_phases
    for estimate in found.splits[0].prompt_cbs.values():  # 25 of them
        assert estimate.low < 25 < estimate.high


def test_one_batch_in_several_splits_is_compared(two_phases):
    _, found = two_phases
    assert [(iso.batch, [name for name, _ in iso.rows]) for iso in found.iso_batches] == [
        (32, ["16 x 2", "8 x 4"]),
        (128, ["32 x 4", "16 x 8"]),
        (256, ["64 x 4", "16 x 16"]),
    ]
    assert "16 x 2 before 8 x 4 by " in found.iso_batches[0].orders[1]


def test_what_the_conclusions_hold_under_is_said_beside_them(one_phase):
    study, found = one_phase
    assert found.learning_rate == "constant, 0.001 at every batch size"
    assert found.conditions[0].startswith("Learning rate: constant, 0.001 at every batch size. The law is that of this")
    assert any("12 run(s), seed(s) 0, 1, 2" in sentence for sentence in found.conditions)
    text = report_text(study, found)
    law = text.split("## The law")[1].split("##")[0]
    assert "Learning rate: constant, 0.001" in law


def test_everything_concluded_is_in_the_text(two_phases):
    study, found = two_phases
    text = report_text(study, found)
    for sentence in [*found.answer, *found.headline, *found.conditions, *found.orders, *found.notes]:
        assert sentence in text
    (split,) = found.splits
    few, many = split.widest.few, split.widest.many
    assert f"| 0.5    | does not suffice | {split.p:.2g} " in text
    assert f"{many[0]} x {many[1]} / {few[0]} x {few[1]}: {split.widest.ratio.value:.3g} [" in text
    for iso in found.iso_batches:  # runs are counted once, above the table
        assert all(cell.removesuffix(" (3 runs)") in text for row in iso.rows for cell in row)
    assert "mean over 3 runs with its 90% interval" in text


def test_groups_of_controls_have_laws_of_their_own(tmp_path):
    write_law(tmp_path / "a", P1, total, n_seeds=1, study="a", **{"algo.kl_coef": 0.0})
    write_law(tmp_path / "b", P1, lambda P, R: 2 * total(P, R), n_seeds=1, study="b", **{"algo.kl_coef": 0.1})
    found = conclude(read_study([tmp_path]))
    S_min = {law.group: law.fit.fit.s_min.value for law in found.laws}
    assert list(S_min) == ["algo.kl_coef=0.0", "algo.kl_coef=0.1"]
    np.testing.assert_allclose(list(S_min.values()), [20, 40], rtol=0.15)


def test_runs_of_one_rollout_with_another_baseline_are_outside_the_law_and_in_the_tables(tmp_path):
    write_law(tmp_path / "groups", [(8, 2), (8, 4), (16, 4)], total, n_seeds=1, **{"algo.advantage": "rloo"})
    write_law(tmp_path / "single", [(32, 1)], total, n_seeds=1, **{"algo.advantage": "batch_mean"})
    study = read_study([tmp_path])
    found = conclude(study)
    said = [sentence for sentence in found.conditions if "one rollout per prompt" in sentence]
    assert len(said) == 1
    assert said[0].startswith("1 run(s) with one rollout per prompt have another baseline")
    assert {seen.run for seen in study.other_observations} == {"np32_nr1_s0"}
    assert [law.fit.fit.n_runs for law in found.laws] == [3]
    assert "32 x 1" in [point.name for point in study.points]
    assert [name for iso in found.iso_batches for name, _ in iso.rows] == ["32 x 1", "8 x 4"]


def test_runs_of_one_rollout_with_the_baseline_of_all_others_are_in_the_law(tmp_path):
    write_law(tmp_path, [(8, 1), (8, 2), (8, 4)], total, n_seeds=1, **{"algo.advantage": "reinforce++"})
    study = read_study([tmp_path])
    assert study.other_observations == []
    assert conclude(study).laws[0].fit.fit.n_runs == 3


def test_a_study_of_nothing_but_single_rollouts_has_a_law(tmp_path):
    write_law(tmp_path, [(8, 1), (16, 1), (32, 1)], total, n_seeds=1, **{"algo.advantage": "batch_mean"})
    assert conclude(read_study([tmp_path])).laws[0].fit.fit.n_runs == 3


def test_runs_that_were_never_evaluated_are_not_counted_in_the_conditions(tmp_path):
    write_law(tmp_path, P1[:3], total, n_seeds=1)
    write_run(tmp_path, point="unread", split=(128, 4), seed=7, accuracies=(), updates_per_step=1)
    found = conclude(read_study([tmp_path]))
    assert found.conditions[-1].startswith("3 run(s) of 4, those evaluated after their start, seed(s) 0; seeds of")
