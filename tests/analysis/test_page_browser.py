"""The page as Chromium sees it: figures there, nothing said on the console, nothing asked for, nothing cut off."""

import pytest
from browser import Browser, chromium_path
from page_studies import write_hostile_study

from rlvr_jax.analysis.report import write_report
from rlvr_jax.analysis.study import read_study

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="no Chromium here: apt-get install chromium")

BODY = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><p>some text</p>'

FIGURES = [
    "The law",
    "One batch size, split in different ways",
    "Critical batch, predicted and fitted",
    "Noise of other splits, predicted and measured",
    "Accuracy over training",
    "pass@4 over training",
    "pass@k at the end",
    "Noise-to-signal of every point",
    "Noise scale over training",
    "Prompt noise over training",
    "Rollout noise over training",
    "Signal over training",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_report(read_study([write_hostile_study(folder / "runs")]), folder / "out", command="bin/report <runs>")
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def opened(page):
    """The page with every part unfolded."""
    path = page.with_name("opened.html")
    path.write_text(page.read_text("utf-8").replace("<details>", "<details open>"), "utf-8")
    return path


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_is_quiet_whole_and_as_wide_as_the_window(browser, opened, width, is_dark):
    seen = browser.look(opened, width=width, is_dark=is_dark)
    assert seen.said == []
    assert seen.asked_for == []
    assert not seen.scripts_ran
    assert seen.overflowing == []
    assert seen.page_width == width
    assert [alt.split(":")[0] for alt, _ in seen.images] == FIGURES
    assert all(n_pixels > 400 for _, n_pixels in seen.images)


def test_the_page_shows_texts_as_they_are(browser, opened):
    text = browser.look(opened, width=1280).text
    assert 'a <b>bold</b> & "quoted" study' in text
    assert "<script>window.ran = true; console.error('ran')</script>" in text
    assert "</pre></td></table><h1 id=escaped>out of its cell</h1>" in text
    assert "{{ 7 * 7 }} {% for x in y %} ${7*7}" in text
    assert r"bell \x07 escape \x1b[31m zero \x00 backspace \x08" in text
    assert r"half a character \ud83d here" in text
    assert r"override \u202egnp.exe\u202c and" in text
    assert "bin/report <runs>" in text


def test_what_matters_is_on_the_first_screen_of_a_phone(browser, page, tmp_path):
    first = browser.look(page, width=375, height=800).text.split("The law")[0]
    assert "to 0.6" in first
    assert "Learning rate: constant" in first
    assert "unresolved" in first or "rollouts [" in first.replace("\n", " ")


def test_even_a_script_that_got_in_would_not_run_or_ask_for_anything(browser, page):
    """The page's own policy, should an escape ever be missing."""
    path = page.with_name("injected.html")
    injected = "<script>window.ran = true</script><img alt=x src=http://leak.example/x.png></body>"
    path.write_text(page.read_text("utf-8").replace("</body>", injected), "utf-8")
    seen = browser.look(path, width=1280)
    assert not seen.scripts_ran
    assert any("Content Security Policy" in said for said in seen.said)
    assert "ERR_NAME_NOT_RESOLVED" not in str(seen.said)  # refused before it was looked up


@pytest.mark.parametrize(
    ("html", "finding"),
    [
        ("<script>console.error('boom')</script>", lambda seen: seen.said == ["error: boom"]),
        ("<script>console.warn('boom')</script>", lambda seen: seen.said == ["warning: boom"]),
        ("<script>throw new Error('boom')</script>", lambda seen: "exception: Error: boom" in seen.said[0]),
        ("<script>window.ran = true</script>", lambda seen: seen.scripts_ran),
        ("<img alt=a src='data:image/png;base64,AAAA'>", lambda seen: seen.images == [("a", 0)]),
        ("<img alt=a src='missing.png'>", lambda seen: seen.asked_for[0].endswith("/missing.png") and seen.said),
        ("<img src=http://leak.example/x.png>", lambda seen: seen.asked_for == ["http://leak.example/x.png"]),
        ("<link rel=stylesheet href=https://leak.example/a.css>", lambda seen: len(seen.asked_for) == 1),
        ("<script>fetch('https://leak.example/')</script>", lambda seen: seen.asked_for == ["https://leak.example/"]),
        ("<div style='width: 500px'>wide</div>", lambda seen: seen.overflowing == ["div.: wide"]),
        ("<div style='width: 500px'>wide</div>", lambda seen: seen.page_width > 375),
    ],
)
def test_the_look_finds_what_is_wrong(browser, tmp_path, html, finding):
    path = tmp_path / "page.html"
    path.write_text(BODY + html, "utf-8")
    assert finding(browser.look(path, width=375))


def test_the_look_finds_nothing_wrong_with_a_plain_page(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(BODY, "utf-8")
    seen = browser.look(path, width=375)
    assert (seen.said, seen.asked_for, seen.images, seen.overflowing, seen.page_width) == ([], [], [], [], 375)
    assert not seen.scripts_ran
    assert "some text" in seen.text
