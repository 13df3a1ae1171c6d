import pytest

from rlvr_jax.tasks.arithmetic import DigitArithmetic
from rlvr_jax.tasks.turns import max_turns, replies_between, transcript


class Counting:
    max_turns = 3

    def reply(self, problem, turns):
        return f" {len(turns)} {problem}\n"


def test_a_task_that_says_nothing_of_turns_has_one():
    assert max_turns(DigitArithmetic(operators="+", operand_min=0, operand_max=9)) == 1
    assert max_turns(Counting()) == 3


def test_replies_stand_between_turns_and_none_after_the_last():
    assert replies_between(Counting(), "p", ["a", "b", "c"]) == [" 1 p\n", " 2 p\n"]
    assert replies_between(Counting(), "p", ["a"]) == []


def test_a_transcript_has_turns_and_replies_in_order():
    assert transcript(["a", "b", "c"], [" 1 p\n", " 2 p\n"]) == "a\n1 p\nb\n2 p\nc"
    assert transcript(["a"], []) == "a"
    with pytest.raises(ValueError, match="zip"):
        transcript(["a", "b"], [])
