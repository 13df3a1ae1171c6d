"""The page's text; what it looks like is for test_page_browser."""

import dataclasses
import html
import math
import re
import sys

import pytest
from law_fits import law, seen
from noise_runs import measured_run
from noise_runs import seen as measured_seen
from page_studies import HOSTILE, STUDY_NAME, write_completions, write_hostile_study
from written_runs import write_run

from rlvr_jax.analysis.compare_laws import LawComparison
from rlvr_jax.analysis.conclusions import LawConclusion, conclude
from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.noise_pool import Pooled
from rlvr_jax.analysis.page import write_page
from rlvr_jax.analysis.predict import predict
from rlvr_jax.analysis.predicted_rows import StepsRow
from rlvr_jax.analysis.report import write_report
from rlvr_jax.analysis.split_conclusions import SplitConclusion
from rlvr_jax.analysis.study import read_study
from rlvr_jax.analysis.study_figures import StudyFigure


def page_of(tmp_path, *, changes=None, **options):
    study = read_study([tmp_path / "runs"])
    conclusions = dataclasses.replace(conclude(study), **(changes or {}))
    path = write_page(study, conclusions, tmp_path, **options)
    assert path == tmp_path / "report.html"
    return path.read_text("utf-8")


def cells_of(page, name):
    """The cells of the first row with this name."""
    row = re.search(rf'<tr><th scope="row">{re.escape(name)}</th>(.*?)</tr>', page)
    return [html.unescape(cell) for cell in re.findall("<td[^>]*>(.*?)</td>", row[1])]


def of_law(fit, *, target=0.6, sentence="said in words"):
    return LawConclusion(target, "", TargetFit(target, "", fit), sentence)


def test_points_and_runs_worked_by_hand(tmp_path):
    # 0.4 after 2 updates and 0.8 after 4: 0.6 after 3, which are 1.5 steps of 32 rollouts; a minibatch is 16
    write_run(tmp_path / "runs", point="only")
    page = page_of(tmp_path)
    points = ["16", "0.001", "1 (0)", "0.200", "3", "2", "48", "0.850", "0.800", "0.900", "not measured"]
    assert cells_of(page, "8 x 4") == points
    folder = str(tmp_path / "runs" / "only")
    assert cells_of(page, "only") == [
        "8 x 4",
        "0",
        "finished",
        "4",
        "64",
        "6 s",
        "0.200",
        "0.800",
        "3.0 (2, 4]",
        folder,
    ]


def test_targets_that_were_missed_or_there_from_the_start_are_shown_as_such(tmp_path):
    write_run(tmp_path / "runs", point="slow", accuracies=(0.2, 0.3, 0.4))
    write_run(tmp_path / "runs", point="early", split=(16, 4), accuracies=(0.7, 0.8, 0.9))
    page = page_of(tmp_path)
    assert cells_of(page, "slow")[-2] == "not by 4"
    assert cells_of(page, "early")[-2] == "at 0 already"


def test_a_law_shows_its_number_interval_and_runs(tmp_path):
    write_run(tmp_path / "runs", point="only")
    observations = [seen(P, at, target=0.6) for P, at in ((4, 64.0), (16, 28.0), (64, 19.0), (256, None))]
    observations[-1] = seen(256, None, target=0.6, ran=9.0)
    fit = law(observations, s_min=16.0, b_noise=96.0)
    page = page_of(tmp_path, changes={"laws": [of_law(fit)], "answer": ["in words first"], "headline": ["and more"]})
    card = page.split('<div class="card">')[1].split("</div>")[0]
    for part in ("to 0.6", "reached by 3 of 4 runs", '<span class="value">96</span> rollouts [64, 144]'):
        assert part in card
    assert cells_of(page, "0.6") == ["96 [64, 144]", "16 [12.8, 20]", "0.1", "-", "reached by 3 of 4 runs"]
    answer = page.split('id="answer"')[1].split("</section>")[0]
    assert answer.index("in words first") < answer.index('class="card"') < answer.index("and more")


def test_no_number_of_an_unresolved_law_is_shown(tmp_path):
    write_run(tmp_path / "runs", point="only")
    fit = law([seen(4, 64.0, target=0.6)], s_min=16.5, b_noise=977.0, reason="all batches are too small")
    page = page_of(tmp_path, changes={"laws": [of_law(fit)], "headline": ["said in words"], "steps_rows": []})
    assert '<div class="card open">' in page
    assert cells_of(page, "0.6")[:2] == ["unresolved", "unresolved"]
    assert "977" not in page
    assert "16.5" not in page
    assert "said in words" in page.split('id="answer"')[1].split("</section>")[0]


def test_branches_are_shown_as_sentences_and_tables(tmp_path):
    write_run(tmp_path / "runs", point="only")
    markdown = "From **step** 5, one.\n\n| batch | a \\| b |\n|---|---|\n| 64 | <0.1> |\n| 256 | - |\n\nAnd another."
    page = page_of(tmp_path, changes={"branches": markdown})
    section = page.split('id="branches"')[1].split("</section>")[0]
    assert "<p>From <strong>step</strong> 5, one.</p>" in section
    assert "<p>And another.</p>" in section
    assert '<th scope="col">a | b</th>' in section
    assert (cells_of(section, "64"), cells_of(section, "256")) == (["<0.1>"], ["-"])
    assert 'id="branches"' not in page_of(tmp_path)


def test_what_gradient_noise_predicts_stands_on_the_card_of_its_law(tmp_path):
    write_run(tmp_path / "runs", point="only")
    fit = law([seen(4, 64.0, target=0.6), seen(16, 28.0, target=0.6)], s_min=16.0, b_noise=96.0)
    row = StepsRow(
        target=0.6, group="", metric="gradient", fitted=fit.b_noise, is_fit_resolved=True,
        predicted={"normalised": Pooled(Estimate(80.0, 70.0, 90.0)), "best_size": Pooled(None, "x")},
        ratios={}, misses={}, runs_fitted=2, runs_predicted=2, sentence="s",
    )  # fmt: skip
    changes = {"laws": [of_law(fit)], "steps_rows": [row]}
    card = page_of(tmp_path, changes=changes).split('<div class="card">')[1].split("</div>")[0]
    assert "by gradient noise 80 [70, 90], steps as Adam&#39;s" in card


def test_of_one_batch_size_the_noise_that_was_measured_is_on_the_card(tmp_path):
    write_run(tmp_path / "runs", point="only")
    runs = [measured_run(f"s{i}", trace_cov=[20.0], grad_sq=[2.0]) for i in range(3)]
    predictions = predict(runs, [measured_seen(f"s{i}") for i in range(3)])
    fit = law([seen(4, 64.0, target=0.6)], s_min=16.5, b_noise=977.0, reason="one size")
    page = page_of(tmp_path, changes={"laws": [of_law(fit)], "steps_rows": [], "predictions": predictions})
    card = page.split('<div class="card open">')[1].split("</div>")[0]
    assert "B_noise of gradients 40 [40, 40] at R = 4" in card


def test_a_batch_size_that_was_split_has_a_row_per_split(tmp_path):
    # 16 x 4: 0.4 after 2 updates, 0.62 after 4, 0.6 after 2 + 2 (0.2 / 0.22); 8 x 8: 0.5 and 0.65, 2 + 2 (0.1 / 0.15)
    write_hostile_study(tmp_path / "runs")
    table = page_of(tmp_path).split("Batch sizes that were split")[2]  # after the box's label
    assert cells_of(table, "64") == ["16 x 4", "3.82 (1 run)"]
    assert cells_of(table.split("16 x 4")[1], "64") == ["8 x 8", "3.33 (1 run)"]


@pytest.mark.parametrize(("reason", "is_shown"), [("", True), ("too few runs", False)])
def test_critical_numbers_are_those_of_a_law_that_is_resolved(tmp_path, reason, is_shown):
    write_run(tmp_path / "runs", point="only")
    fit = law([seen(4, 64.0, target=0.6)], s_min=16.0, b_noise=96.0, reason=reason)
    comparison = LawComparison({"loo": fit}, "loo", "a verdict")
    cbs = {"prompt_cbs": {4: Estimate(31.0, 20.0, 47.0), 8: None}, "rollout_cbs": {32: Estimate(2.5, 1.5, math.inf)}}
    split = SplitConclusion(0.6, "", comparison, "0.6: a verdict", rollouts=(4, 8), law="loo", **cbs)
    page = page_of(tmp_path, changes={"splits": [split]})
    assert "0.6: a verdict" in page
    assert ("31 [20, 47]" in page) == is_shown
    if is_shown:
        assert cells_of(page, "prompts, of 4 rollouts each") == ["31 [20, 47]"]
        assert cells_of(page, "prompts, of 8 rollouts each") == ["-"]
        assert cells_of(page, "rollouts, of 32 prompts") == ["2.5 (> 1.5)"]


def test_predicted_stands_beside_fitted_unless_that_is_unresolved(tmp_path):
    write_run(tmp_path / "runs", point="only")
    predicted = {"best_size": Pooled(Estimate(300.0, 200.0, 450.0)), "normalised": Pooled(None, "too few")}
    row = StepsRow(
        target=0.6, group="", metric="gradient", fitted=Estimate(96.0, 64.0, 144.0), is_fit_resolved=True,
        predicted=predicted, ratios={"best_size": Estimate(3.1, 2.0, 5.0)}, misses={"best_size": 1.2},
        runs_fitted=7, runs_predicted=5, sentence="s",
    )  # fmt: skip
    changes = {"steps_rows": [row], "predicted_sentences": ["in words"]}
    rest = ["unresolved", "300 [200, 450] (× 1.20)"]
    table = page_of(tmp_path, changes=changes).split('id="predicted"')[1]
    assert cells_of(table, "0.6") == ["96 [64, 144]", *rest]
    changes["steps_rows"] = [dataclasses.replace(row, is_fit_resolved=False)]
    table = page_of(tmp_path, changes=changes).split('id="predicted"')[1]
    assert cells_of(table, "0.6") == ["unresolved", *rest]


def test_settings_are_told_apart_and_facts_shown(tmp_path):
    more = {
        "git_revision": "0123abc",
        "versions": {"jax": "0.10.2"},
        "devices": {"platform": "cpu", "kind": "x", "n": 2},
    }
    for i, split in enumerate(((8, 4), (32, 4), (128, 4))):
        write_run(tmp_path / "runs", point=f"p{i}", split=split, more=more)
    write_run(tmp_path / "runs", point="other", split=(64, 4), more=more | {"git_revision": "fff"})
    page = page_of(tmp_path)
    assert cells_of(page, "batch.n_prompts") == ["8 (1), 32 (1), 64 (1), 128 (1)"]
    assert cells_of(page, "batch.n_rollouts") == ["4"]
    assert cells_of(page, "git revision") == ["0123abc (3 of 4 runs), fff (1 of 4 runs)"]
    assert cells_of(page, "jax") == ["0.10.2"]
    assert cells_of(page, "devices") == ["2 x x (cpu)"]


def test_completions_are_those_of_each_run(tmp_path):
    write_completions(write_run(tmp_path / "runs", point="a"), ["first answer"])
    write_run(tmp_path / "runs", point="b", split=(16, 4))
    page = page_of(tmp_path)
    assert '<pre dir="auto">first answer</pre>' in page
    assert "a second rollout" not in page
    assert "seed 0: no rollouts.jsonl.gz." in page


def test_hostile_text_is_escaped_everywhere(tmp_path):
    write_hostile_study(tmp_path / "runs")
    page = page_of(tmp_path, command="bin/report '<script>'", notes=["a <script> in a note"])
    assert len(page) < 200_000  # of a completion of 1 MB only its start
    body = page.split("</style>")[1]
    for forbidden in ("<script", "<img", "<b>", "<u>", "<i>", "<h1 id", "<style", "<link", "\x1b", "\u202e", "\ud83d"):
        assert forbidden not in body, forbidden
    assert html.escape(STUDY_NAME, quote=False).replace('"', "&#34;") in page
    assert "[999,400 more characters]" in page
    for text in HOSTILE[:4]:
        assert text in html.unescape(page)


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path):
    write_run(tmp_path / "runs", point="only")
    (tmp_path / "a.png").write_bytes(b"picture")
    page = page_of(tmp_path, figures=[StudyFigure(tmp_path / "a.png", "A <title>", "what & who")])
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert 'src="data:image/png;base64,cGljdHVyZQ==" alt="A &lt;title&gt;: what &amp; who"' in page
    assert set(re.findall(r"""(?:src|href)=(["']?\w*\W)""", page)) == {'"data:', '"#'}
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.parametrize("accuracies", [(0.2,), ()])
def test_a_study_that_was_not_evaluated_still_has_its_page(tmp_path, accuracies):
    folder = write_run(tmp_path / "runs", point="only", status="running", accuracies=accuracies)
    (folder / "metrics.jsonl").write_text('{"update": 1, "loss/total": 0.5}\n')
    page = page_of(tmp_path)
    assert "No run was evaluated after its start." in page
    assert "allow no conclusion" in page


def test_without_matplotlib_the_report_has_all_but_figures_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    write_run(tmp_path / "runs", point="only")
    write_report(read_study([tmp_path / "runs"]), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "No figures: matplotlib is not installed" in page
    assert "<figure" not in page
    assert cells_of(page, "8 x 4")
    assert not list((tmp_path / "out").glob("*.png"))


def test_notes_and_the_command_close_the_page(tmp_path):
    write_run(tmp_path / "runs", point="only")
    page = page_of(tmp_path, command="bin/report runs --smooth=2", notes=["No figures: **no** matplotlib."])
    assert "<li>No figures: <strong>no</strong> matplotlib.</li>" in page
    assert "bin/report runs --smooth=2</pre>" in page


def test_the_spacing_of_evaluations_is_that_of_all_runs(tmp_path):
    for i, every in enumerate((2, 8, 128)):
        write_run(tmp_path / "runs", point=f"p{i}", split=(8 * 2**i, 4), **{"eval.every_updates": every})
    assert "evaluated every 2 to 128 updates" in page_of(tmp_path)
