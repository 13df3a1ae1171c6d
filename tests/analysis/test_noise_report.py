"""The table of one noise measurement, from results written by hand."""

import pytest
from noise_results import REASON, make_result, refused_result, total_of, unresolved_result

from rlvr_jax.analysis.noise_report import noise_table


def line_with(text, words):
    """The one line that contains all the words."""
    found = [line for line in text.splitlines() if all(word in line for word in words.split("|"))]
    assert len(found) == 1, (words, text)
    return " ".join(found[0].split())


def test_the_table_says_what_was_measured():
    text = noise_table(make_result())
    assert "runs/digits/np256 update 120" in text
    assert "256 prompts x 32 rollouts, of 18000 problems; 201 prompts have" in text
    # B = 0.04766 / 0.002 = 23.83, interval 0.8 and 1.25 times that
    assert line_with(text, "B_noise|in prompts").endswith("23.8 [19.1, 29.8]")
    assert line_with(text, "B_noise|in rollouts").endswith("763 [610, 953]")
    assert line_with(text, "noise-to-signal").endswith("0.0931 [0.0745, 0.116]")
    assert line_with(text, "one group's gradient").endswith("0.0477")
    assert line_with(text, "this batch's gradient").endswith("0.000186")
    assert line_with(text, "squared gradient").endswith("0.002")
    assert "unresolved" not in line_with(text, "noise-to-signal")


def test_the_table_shares_the_noise_out_between_prompts_and_rollouts():
    text = noise_table(make_result())
    # 0.04 / 0.04766 = 84%
    assert line_with(text, "prompt noise, V_prompt").endswith("0.04 84% [0.028, 0.052]")
    assert line_with(text, "rollout noise, V_rollout(32)").endswith("0.00766 16%")
    assert line_with(text, "R*, rollouts per prompt").endswith("6.92 [5.2, 9.7]")
    assert line_with(text, "rollout noise equals prompt noise").endswith("9.41")
    assert line_with(text, "fixed cost").endswith("1 per prompt and 0.25 per rollout: R = 11")
    assert "not told apart from 0" not in text


def test_the_table_shows_every_group_of_parameters():
    text = noise_table(make_result())
    # embedding: a quarter of S, half of |G|^2, B = 0.25 * 0.04766 / 0.001
    assert line_with(text, "embedding") == "embedding 25% 50% 11.9 [9.53, 14.9]"
    assert line_with(text, "mlp") == "mlp 75% 50% unresolved about 1234 prompts would resolve it"


def test_the_table_follows_one_batch_size_and_marks_the_best_split():
    text = noise_table(make_result())
    assert "8192 rollouts" in line_with(text, "Predicted")
    # V_rollout(8) = 24/56*.05 + 2/56*.8 = 0.05 -> 0.09/1024 = 8.79e-5; at 256 x 32 it is 0.000186 = 2.12 times that
    assert line_with(text, "1024 x 8").endswith("8.79e-05 1.00 [7.03e-05, 0.000105] <- least noise")
    assert line_with(text, "256 x 32").endswith("0.000186 2.12 [0.000149, 0.000223] <- measured")
    splits = [line.split()[:3] for line in text[text.index("times the least") :].splitlines()[1:-1]]
    assert splits == [[str(8192 // r), "x", str(r)] for r in (2, 4, 8, 16, 32, 64, 128)]
    assert text.count("<-") == 2


def test_a_batch_between_the_predicted_sizes_takes_the_nearest_and_says_so():
    text = noise_table(make_result(P=200, R=30))
    assert "8192 rollouts (6000 measured)" in line_with(text, "Predicted")
    assert "<- measured" not in text


def test_what_is_unresolved_is_said_with_what_would_resolve_it():
    text = noise_table(unresolved_result())
    assert "Noise scale B_noise: unresolved: about 1234 prompts would resolve it." in text
    assert "in prompts" not in text
    assert line_with(text, "R*, rollouts per prompt").endswith("unresolved")
    assert "V_prompt is not told apart from 0" in text
    assert "rollout noise equals" not in text
    assert "<- least noise" not in text
    assert "R* is unresolved, so which of these has the least noise is not known" in text
    assert line_with(text, "embedding") == "embedding 25% - unresolved about 1234 prompts would resolve it"


def test_the_number_of_prompts_that_would_resolve_it_may_be_unknown():
    result = unresolved_result()
    for total in (result["total"], *result["per_group"].values()):
        total["prompts_to_resolve"] = None
    text = noise_table(result)
    assert "Noise scale B_noise: unresolved: |G|^2 is not told apart from 0." in text
    assert "about" not in text


@pytest.mark.parametrize("change", [{"resolved": False}, {"r_star": {"value": None, "ci": [None, None]}}])
def test_a_best_split_needs_a_value_and_to_be_resolved(change):
    result = make_result()
    result["decompose"] |= change
    text = noise_table(result)
    assert line_with(text, "R*, rollouts per prompt").endswith("unresolved")
    assert "<- least noise" not in text


def test_an_interval_of_nulls_is_left_empty():
    result = make_result()
    result["decompose"]["zeta1"]["ci"] = [None, None]
    assert line_with(noise_table(result), "zeta1").endswith("zeta1 0.05")


def test_intervals_stand_in_one_column():
    lines = noise_table(make_result()).splitlines()
    first = next(i for i, line in enumerate(lines) if line.endswith("95% interval"))
    assert {line.index("[") for line in lines[first + 1 : first + 4]} == {lines[first].index("95%")}


def test_equal_rewards_everywhere_are_zeros_and_unresolved():
    result = unresolved_result()
    for total in (result["total"], *result["per_group"].values()):
        total |= {"trace_cov": 0.0, "trace_cov_group": 0.0, "grad_sq": 0.0, "prompts_to_resolve": None}
    for name in ("v_prompt", "zeta1", "zeta2"):
        result["decompose"][name] = {"value": 0.0, "ci": [0.0, 0.0]}
    result["predicted"] = [point | {"trace_cov": 0.0, "lo": 0.0, "hi": 0.0} for point in result["predicted"]]
    text = noise_table(result)
    assert line_with(text, "one group's gradient").endswith(" 0")
    assert line_with(text, "prompt noise, V_prompt") == "prompt noise, V_prompt 0 - [0, 0]"


def test_a_refused_decomposition_gives_its_reason():
    text = noise_table(refused_result())
    assert REASON in " ".join(text.split())
    assert "V_prompt" not in text
    assert "Predicted" not in text


def test_rollouts_that_were_not_finite_are_counted():
    result = make_result()
    assert "not finite" not in noise_table(result)
    result["total"] |= {"n_nonfinite_rollouts": 3, "n_nonfinite_prompts": 2}
    said = " ".join(noise_table(result).split())
    assert "2 prompts left out: the gradient of 3 of their rollouts is not finite" in said


def test_prompts_that_could_not_be_graded_are_counted():
    assert "graded" not in noise_table(make_result())
    result = make_result()
    result["total"]["n_ungraded_prompts"] = 4
    assert "4 prompts left out: they could not be graded" in " ".join(noise_table(result).split())


def test_adams_metric_is_a_table_of_its_own():
    assert "Adam" not in noise_table(make_result())
    text = noise_table(make_result() | {"adam": total_of(3.0, 0.5, P=256, R=32)})
    adam = text[text.index("In Adam's metric") : text.index("Where S comes from")]
    assert line_with(adam, "B_noise|in prompts").endswith("6 [4.8, 7.5]")
    assert line_with(adam, "one group's gradient").endswith(" 3")
    text = noise_table(make_result() | {"adam": total_of(3.0, 0.5, P=256, R=32, is_resolved=False)})
    adam = text[text.index("In Adam's metric") :]
    assert "unresolved: about 1234 prompts" in adam.splitlines()[1]


def test_a_best_split_by_cost_may_be_unresolved():
    result = make_result()
    result["decompose"]["best_rollouts_by_cost"]["n_rollouts"] = None
    assert line_with(noise_table(result), "fixed cost").endswith("1 per prompt and 0.25 per rollout: unresolved")


def test_few_problems_are_said_to_make_large_batches_less_noisy():
    remark = "none of the 18000 problems twice"
    assert remark in noise_table(make_result())  # 4096 x 2 is on the line
    few = make_result(P=64, R=4)  # 128 x 2 is
    assert remark not in noise_table(few)
    assert "twice" not in noise_table(make_result() | {"n_problems": None})


def test_negative_estimates_are_shown_as_such():
    text = noise_table(unresolved_result(V=-0.004))
    assert line_with(text, "prompt noise, V_prompt").startswith("prompt noise, V_prompt -0.004 -109%")
    assert line_with(text, "128 x 64").split()[3:5] == ["-4.12e-06", "-"]  # no multiple of a negative noise


@pytest.mark.parametrize("make", [make_result, unresolved_result, refused_result])
def test_a_terminal_of_100_columns_holds_the_table(make):
    result = make()
    result["decompose_refused"] = " ".join([REASON] * 5)
    assert max(len(line) for line in noise_table(result).splitlines()) <= 100


def test_where_every_prompt_has_a_gradient_none_is_said_to_have_none():
    result = make_result()
    result["total"]["effective_prompts"] = 256
    text = noise_table(result)
    assert "every prompt has rollouts of unequal reward" in text
    assert "no gradient" not in text


def test_a_split_of_the_policy_term_alone_is_called_so():
    result = make_result()
    assert "policy term alone" not in noise_table(result)
    result["decompose"]["is_policy_term_alone"] = True
    assert "Of the policy term alone: KL and entropy terms are in the noise above" in noise_table(result)
