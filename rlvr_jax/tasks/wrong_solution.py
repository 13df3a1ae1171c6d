"""A solution with another final answer, for demonstrations that are right only part of the time."""

import re

import numpy as np


def wrong_solution(solution: str, gold: str, rng: np.random.Generator) -> str | None:
    """`solution` with one digit of its final answer changed, where it is stated and where it was worked out.

    "7+5=12\\n#### 12" may become "7+5=17\\n#### 17". It is as long as `solution`. None if `gold` has no digit or does
    not stand in `solution`.
    """
    places = [place for place, character in enumerate(gold) if "0" <= character <= "9"]
    found = list(re.finditer(rf"(?<![\w.]){re.escape(gold)}(?!\w|[.,]\d)", solution))
    if not places or not found:
        return None
    place = places[int(rng.integers(len(places)))]
    is_leading = place + 1 in places and not gold[:place][-1:].isdigit()  # 0 there would make it shorter
    others = [digit for digit in "0123456789"[is_leading:] if digit != gold[place]]
    wrong = gold[:place] + others[int(rng.integers(len(others)))] + gold[place + 1 :]
    for match in reversed(found):
        if match is found[-1] or solution[: match.start()].rstrip(" $").endswith("="):
            solution = solution[: match.start()] + wrong + solution[match.end() :]
    return solution
