"""Orders of points in few lines."""

from rlvr_jax.analysis.order_text import order_lines


def test_few_pairs_are_listed_with_their_differences():
    said, pair = order_lines("speed", {"a": [0.8, 0.81, 0.82], "b": [0.5, 0.51, 0.52]})
    assert said == "Order by speed: 1 of 1 pairs differ beyond seed spread (Tukey HSD, 95% over all pairs)."
    # t(97.5%, 4 degrees) = 2.776 times 0.01 sqrt(2 / 3) = 0.0227
    assert pair == "- a above b by 0.300 [0.277, 0.323]"


def test_of_many_pairs_the_means_stand_in_order_and_those_not_told_apart_are_named():
    ends = {"e": 0.1, "d": 0.3, "c": 0.5, "b": 0.7, "a": 0.705}
    points = {name: [end - 0.01, end, end + 0.01] for name, end in ends.items()}
    said, means, alike = order_lines("speed", points)
    assert "9 of 10 pairs differ" in said
    # studentised range of 5 means with 10 degrees of freedom, 4.654, times 0.01 / sqrt(3): 0.0269
    assert said.endswith("Differences are ± 0.027.")
    assert means == "- Means: a 0.705, b 0.700, c 0.500, d 0.300, e 0.100."
    assert alike == "- Not told apart: a from b."


def test_a_point_with_one_seed_has_no_place_in_the_order():
    points = {name: [i / 10, i / 10 + 0.01] for i, name in enumerate("abcde")} | {"alone": [0.9]}
    assert not any("alone" in line for line in order_lines("speed", points)[1:])
