"""The small word problems: what each tells, worked out again from its words."""

import re

from rlvr_jax.tasks.small_gsm8k import small_gsm8k_row

ROWS = [small_gsm8k_row(i) for i in range(12_000)]
SENTENCE = re.compile(
    r"(?P<name>[A-Z][a-z]+) has (?:(?P<bags>\d+) bags of )?(?P<first>\d+) (?P<thing>[a-z]+)"
    r"(?:,? (?:and )?gets (?P<gets>\d+))?(?: and gives (?P<gives>\d+))?\. How many\?"
)


def test_every_answer_follows_from_the_words():
    for row in ROWS:
        told = SENTENCE.fullmatch(row["question"])
        assert told, row
        answer = int(told["first"]) * int(told["bags"] or 1) + int(told["gets"] or 0) - int(told["gives"] or 0)
        *steps, last = row["answer"].splitlines()
        assert last == f"#### {answer}"
        for step in steps:
            left, sign, right, result = re.fullmatch(r"(\d+)([-+*])(\d+)=(\d+)", step).groups()
            signed = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
            assert signed[sign] == int(result)
        assert steps[-1].endswith(f"={answer}")


def test_all_are_different_of_every_kind_and_short():
    assert len({row["question"] for row in ROWS}) == len(ROWS)
    assert {(" bags " in q, " gets " in q, " gives " in q) for q in (row["question"] for row in ROWS)} == {
        (True, False, False), (False, True, False), (False, False, True), (False, True, True),
    }  # fmt: skip
    assert max(len(row["question"]) for row in ROWS) <= 46
