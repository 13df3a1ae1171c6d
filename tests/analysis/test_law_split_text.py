"""Whether N = P R suffices, in words: from tables where it does not, and where it is not asked."""

from law_fits import seen

from rlvr_jax.analysis.law_split_text import split_text

SPLITS = ((16, 4), (64, 4), (256, 4), (128, 2), (32, 8), (16, 32), (64, 32), (32, 16), (256, 16))


def time_of(n_prompts, n_rollouts, seed):
    """100 (1 + 150 / P + 900 / (P (R - 1))), 3% up or down from seed to seed."""
    return 100 * (1 + 150 / n_prompts + 900 / (n_prompts * (n_rollouts - 1))) * (0.97, 1.03)[seed]


def test_where_the_split_counts_it_is_said_with_every_law_and_the_critical_sizes():
    found = [seen(p, time_of(p, r, s), n_rollouts=r, seed=s, run=f"{p}x{r}") for p, r in SPLITS for s in (0, 1)]
    text = split_text(found, unit="step", confidence=0.9)
    assert "0.5: N = P R does not suffice" in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert list(lines) == ["law", "total", "mean", "loo", "zeta"]
    terms = lines["loo"].split("|")[3].split()
    assert terms[0] == "alpha"
    assert 120 < float(terms[1]) < 180
    assert terms[4] == "beta"
    assert 750 < float(terms[5]) < 1050
    assert 'By "loo": twice S_min at ' in text


def test_where_one_of_both_is_the_same_everywhere_nothing_is_asked():
    found = [seen(p, time_of(p, 8, 0)) for p in (16, 32, 64)]
    assert split_text(found, unit="step", confidence=0.9) == ""
