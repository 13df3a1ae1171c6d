import re

import pytest

from rlvr_jax.tasks.wordle_words import COMMON_WORDS, words_of_file


def test_the_embedded_list_has_a_few_hundred_different_words_of_five_letters():
    assert 300 <= len(COMMON_WORDS) <= 999
    assert len(set(COMMON_WORDS)) == len(COMMON_WORDS)
    assert all(re.fullmatch("[a-z]{5}", word) for word in COMMON_WORDS)
    assert "frost" in COMMON_WORDS


def test_plain_lines_and_rows_of_json_are_read(tmp_path):
    plain, rows = tmp_path / "words.txt", tmp_path / "words.jsonl"
    plain.write_bytes(b"\xef\xbb\xbffrost\r\n\n CRANE \nfrost\n")
    rows.write_text('{"word": "frost", "rank": 1}\n{"word": "Crane"}\n')
    assert words_of_file(str(plain), setting="task.words") == ("frost", "crane")
    assert words_of_file(str(rows), setting="task.words") == ("frost", "crane")


def test_a_path_may_begin_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "words.txt").write_text("frost\n")
    assert words_of_file("~/words.txt", setting="task.words") == ("frost",)


def test_lines_that_hold_no_word_are_named(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("frost\nfrosty\ncrane\nno\n\ncafé1\n")
    with pytest.raises(ValueError, match=r"task\.words=.*line 2: 'frosty'.*line 4: 'no'.*line 6: 'café1'"):
        words_of_file(str(file), setting="task.words")
    rows = tmp_path / "words.jsonl"
    rows.write_text('{"word": "frost"}\n[1]\n{"wort": "frost"}\n{"word"\n')
    with pytest.raises(ValueError, match=r"line 2: no row.*line 3: no row.*line 4: no JSON"):
        words_of_file(str(rows), setting="task.words")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "has no words"), (b"\n\n", "has no words"), (b"fr\xffst\n", "not UTF-8")]
)
def test_files_without_words_are_refused(tmp_path, content, message):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        words_of_file(str(file), setting="task.words")
    with pytest.raises(ValueError, match="cannot be read"):
        words_of_file(str(tmp_path / "none.txt"), setting="task.words")
