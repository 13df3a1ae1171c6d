"""What a reward function may look like and return."""

import decimal
import fractions
import functools

import numpy as np
import pytest

from rlvr_jax.tasks.reward_worker import Refused, call_reward, parameters_to_pass

REQUEST = {"prompt": "p", "completions": ["a", "b"], "answer": "x", "row": {"k": 1}}


def scores(function, **request):
    return call_reward(function, None, parameters_to_pass(function), REQUEST | request)


@pytest.mark.parametrize(
    ("function", "passed"),
    [
        (lambda completions: 0, ["completions"]),
        (lambda answer, completions: 0, ["completions", "answer"]),
        (lambda row, answer, completions, prompt: 0, ["prompt", "completions", "answer", "row"]),
        (lambda **everything: 0, ["prompt", "completions", "answer", "row"]),
        (lambda completions, strict=True, **rest: 0, ["prompt", "completions", "answer", "row"]),
        (lambda *, completions, row: 0, ["completions", "row"]),
        (lambda completions, *more, scale=2.0: 0, ["completions"]),
        (lambda completions, answer="none": 0, ["completions", "answer"]),
        (functools.partial(lambda base, completions: 0, 1.0), ["completions"]),
    ],
)
def test_a_function_gets_what_it_names(function, passed):
    assert parameters_to_pass(function) == passed


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda completion: 0, "needs a parameter 'completion', but .* did you mean 'completions'?"),
        (lambda prompts, completions: 0, "needs a parameter 'prompts', but the four that exist are prompt, comp"),
        (lambda completions, ground_truth: 0, "needs a parameter 'ground_truth', but the four .* answer, row$"),
        (lambda completions, /: 0, "'completions' is positional only"),
        (lambda prompt, answer: 0, "takes no 'completions'"),
        (lambda *everything: 0, "takes no 'completions'"),
    ],
)
def test_a_function_that_needs_anything_else_is_refused(function, fault):
    with pytest.raises(Refused, match=fault):
        parameters_to_pass(function)


def test_arguments_reach_the_parameters_of_their_names():
    def reward(row, answer, completions, prompt, scale=2.0):
        assert (prompt, completions, answer, row, scale) == ("p", ["a", "b"], "x", {"k": 1}, 2.0)
        return [1, 2]

    assert scores(reward) == [1.0, 2.0]


@pytest.mark.parametrize(
    "returned",
    [
        [1, 0],
        (1.0, 0.0),
        [True, False],
        np.array([1.0, 0.0]),
        np.array([1, 0], np.int8),
        np.array([True, False]),
        [np.float32(1), np.bool_(False)],
        [np.array(1.0), np.array(0)],
        [fractions.Fraction(1), 0],
    ],
)
def test_numbers_of_every_kind_are_scores(returned):
    got = scores(lambda completions: returned)
    assert got == [1.0, 0.0]
    assert [type(score) for score in got] == [float, float]


@pytest.mark.parametrize(
    ("returned", "fault"),
    [
        (None, "returned None instead of a list of 2 numbers, one per completion"),
        (1.0, "returned a float instead of a list"),
        ("10", "returned a str instead of a list"),
        ({"a": 1, "b": 2}, "returned a dict instead of a list"),
        (range(2), "returned a range instead of a list"),
        (np.float32(1), "returned a float32 instead of a list"),
        (["1", "0"], "returned a str at index 0 instead of a number"),
        ([1, None], "returned None at index 1 instead of a number"),
        ([1, 2j], "returned a complex at index 1"),
        ([decimal.Decimal(1), 1], "returned a Decimal at index 0"),
        (np.ones((2, 1)), "returned a list at index 0"),
        ([1], "returned 1 numbers for 2 completions"),
        ([1, 2, 3], "returned 3 numbers for 2 completions"),
        ([], "returned 0 numbers for 2 completions"),
        ([1, float("nan")], "returned nan at index 1; rewards must be finite"),
        ([float("-inf"), 1], "returned -inf at index 0"),
        ([1, 1e39], r"returned a number beyond 1e\+15 at index 1"),  # inf in float32
        ([10**400, 1], r"returned a number beyond 1e\+15 at index 0"),
    ],
)
def test_anything_but_a_finite_number_per_completion_is_refused(returned, fault):
    with pytest.raises(Refused, match=fault):
        scores(lambda completions: returned)


def test_a_function_that_empties_the_list_is_still_held_to_its_length():
    with pytest.raises(Refused, match="returned 0 numbers for 2 completions"):
        scores(lambda completions: completions.clear() or completions, completions=["a", "b"])


class Unshowable(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (ValueError("two\n  lines"), "raised ValueError: two lines "),
        (ValueError("x" * 1_000), f"raised ValueError: {'x' * 300}[.]{{3}} "),
        (KeyError(), "raised KeyError "),
        (SystemExit(3), "raised SystemExit: 3 "),
        (KeyboardInterrupt(), "raised KeyboardInterrupt "),
        (Unshowable(), "raised Unshowable: .its message cannot be shown. "),
    ],
)
def test_whatever_a_function_raises_is_described_with_its_line(error, described):
    def reward(completions):
        raise error

    line = reward.__code__.co_firstlineno + 1
    with pytest.raises(Refused, match=rf"^{described}\(line {line} of test_reward_worker.py\)$"):
        scores(reward)
