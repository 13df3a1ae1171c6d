import dataclasses
import math

import pytest
from simulated_studies import BATCHES, exact, total_law

from rlvr_jax.analysis.fits import fit_law
from rlvr_jax.analysis.hyperbola import hyperbola_points

STUDY = exact(total_law(100.0, 1000.0), [(b, 1) for b in BATCHES])


def test_on_the_law_the_product_is_1_at_every_batch():
    points = hyperbola_points(fit_law(STUDY))
    assert [p.batch for p in points] == list(BATCHES)
    assert [p.product for p in points] == pytest.approx([1] * 7, rel=1e-4)


def test_a_late_run_lies_outside_the_hyperbola():
    """S = 260 at B = 1000 in place of 200: with S_min 100 and B_noise 1000 the product is 1.6 x 1.6 = 2.56."""
    fit = fit_law(STUDY)
    late = dataclasses.replace(fit.points[3], observation=dataclasses.replace(STUDY[3], at=260.0))
    point = hyperbola_points(dataclasses.replace(fit, points=(*fit.points[:3], late, *fit.points[4:])))[3]
    assert point.product == pytest.approx(2.56, rel=1e-4)
    assert point.log_product == pytest.approx(math.log(2.56), rel=1e-4)


def test_steps_below_the_least_lie_off_the_branch():
    fit = fit_law(STUDY)
    early = dataclasses.replace(fit.points[6], observation=dataclasses.replace(STUDY[6], at=90.0))
    assert hyperbola_points(dataclasses.replace(fit, points=(early,)))[0].log_product is None


def test_only_a_measured_one_dimensional_law_has_one():
    with pytest.raises(ValueError, match="not of 'prompts'"):
        hyperbola_points(fit_law(STUDY, shape="prompts"))
    with pytest.raises(ValueError, match="draw no hyperbola"):
        hyperbola_points(fit_law(exact(lambda p, r: 50.0 + p, [(b, 1) for b in BATCHES])))
