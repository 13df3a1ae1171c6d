import json

import pytest
from noise_results import make_result, unresolved_result

from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.policy_noise import find_policy_noise, policy_noise_table


def written(tmp_path, name, result):
    (tmp_path / name).mkdir()
    (tmp_path / name / "noise.json").write_text(json.dumps(result))


def test_results_of_bin_noise_are_found_and_read(tmp_path):
    written(tmp_path, "a", make_result())
    written(tmp_path, "b", unresolved_result())
    notes = []
    known, unknown = find_policy_noise([tmp_path, tmp_path / "a"], notes=notes)
    # S = 0.04766 (see noise_results) over 0.002, times 32; the interval as written, 0.8 and 1.25 of it
    assert known.b_noise_rollouts.estimate.value == pytest.approx(762.5, rel=1e-3)
    assert known.b_noise_rollouts.estimate.low == pytest.approx(0.8 * 762.5, rel=1e-3)
    assert known.best_rollouts.estimate == Estimate(pytest.approx(6.916, rel=1e-3), 5.2, 9.7)
    assert not unknown.b_noise_rollouts.is_resolved
    assert "1234 prompts would resolve it" in unknown.b_noise_rollouts.reason
    assert notes == []
    table = policy_noise_table([known, unknown]).splitlines()
    assert table[2] == "| runs/digits/np256 update 120 | 256 x 32 | 763 [610, 953] | 6.92 [5.2, 9.7] |"
    assert table[3].endswith("| unresolved | unresolved |")


def test_a_file_of_another_kind_is_left_out_and_said(tmp_path):
    written(tmp_path, "a", {"policy": "x"})
    notes = []
    assert find_policy_noise([tmp_path], notes=notes) == []
    assert "noise.json is no result of bin/noise (KeyError" in notes[0]
    assert policy_noise_table([]) == ""
