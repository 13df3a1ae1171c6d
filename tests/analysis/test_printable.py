import pytest
from markupsafe import Markup

from rlvr_jax.analysis.printable import emphasised, printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 数, 🙂", "plain, ünïcode, 数, 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x00\x1b[31m\x7f\x85\r", r"\x00\x1b[31m\x7f\x85\r"),
        ("a\u202eb\u200fc\u2066d\u061ce", r"a\u202eb\u200fc\u2066d\u061ce"),
        ("\ud83d and \udc00", r"\ud83d and \udc00"),
        ("\u2028\u2029\ufeff\uffff", r"\u2028\u2029\ufeff\uffff"),
    ],
)
def test_what_does_not_show_is_shown_as_an_escape(text, shown):
    assert printable(text) == shown
    printable(text).encode("utf-8")  # which halves of characters have not


@pytest.mark.parametrize("value", [3, None, Markup("<b>\x07</b>")])
def test_what_is_no_plain_text_is_left_alone(value):
    assert printable(value) is value


@pytest.mark.parametrize(
    ("text", "n", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc … [1 more characters]"),
        ("a" * 1500, 10, "aaaaaaaaaa … [1,490 more characters]"),
    ],
)
def test_a_long_text_says_how_much_is_not_shown(text, n, shown):
    assert shortened(text, n) == shown


@pytest.mark.parametrize(
    ("sentence", "html"),
    [
        ("a < b & `c`", "a &lt; b &amp; <code>c</code>"),
        ("**1 < 2** and `<script>`", "<strong>1 &lt; 2</strong> and <code>&lt;script&gt;</code>"),
        ("2 ** 3, a * b, ` alone", "2 ** 3, a * b, ` alone"),
        ("[text](http://x) <b>\x07", "[text](http://x) &lt;b&gt;\\x07"),
    ],
)
def test_of_markdown_only_bold_and_code_are_rendered(sentence, html):
    assert emphasised(sentence) == html
