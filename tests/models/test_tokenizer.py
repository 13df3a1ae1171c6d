"""Characters to ids and back."""

import numpy as np
import pytest

from rlvr_jax.models.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer()
PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))


def test_a_prompt_is_bos_and_its_characters():
    # 0 1 2 are pad, bos, eos; 3 is newline; a printable character of code c is 4 + c - 32
    # "0" is code 48 -> 20, "7" 55 -> 27, "+" 43 -> 15, "=" 61 -> 33
    assert TOKENIZER.encode_prompt("07+=") == [1, 20, 27, 15, 33]


def test_a_completion_is_its_characters_and_eos():
    assert TOKENIZER.encode_completion("\n 0") == [3, 4, 20, 2]


def test_an_empty_text_is_its_special_token_alone():
    assert (TOKENIZER.encode_prompt(""), TOKENIZER.encode_completion("")) == ([1], [2])


def test_the_vocabulary_is_three_special_tokens_newline_and_printable_ascii():
    assert TOKENIZER.vocab_size == 3 + 1 + 95
    ids = TOKENIZER.encode_prompt(PRINTABLE)[1:]
    assert sorted(ids) == list(range(3, 99))  # every id has one character


@pytest.mark.parametrize("text", ["", "Calculate: 7 + 12 = ", "07+12=", "two\nlines", PRINTABLE])
def test_a_text_survives_the_way_there_and_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode_prompt(text)) == text
    assert TOKENIZER.decode(TOKENIZER.encode_completion(text)) == text


def test_special_tokens_are_left_out_of_the_text_wherever_they_stand():
    assert TOKENIZER.decode([1, 20, 0, 1, 27, 0, 0]) == "07"


def test_a_text_ends_before_the_first_eos():
    assert TOKENIZER.decode([20, 2, 27]) == "0"


def test_an_array_of_ids_is_decoded_like_a_list():
    assert TOKENIZER.decode(np.array([1, 20, 27, 2], np.int32)) == "07"


@pytest.mark.parametrize("encode", [TOKENIZER.encode_prompt, TOKENIZER.encode_completion])
def test_unknown_characters_are_refused_by_name(encode):
    with pytest.raises(ValueError, match="é") as refused:
        encode("caf\té" + "x" * 10_000)
    assert "\\t" in str(refused.value)
    assert len(str(refused.value)) < 400  # the text is shown in part only


def test_a_reply_is_its_characters_without_bos_or_eos():
    tokenizer = CharTokenizer()
    first, *_ = tokenizer.encode_prompt("G-")
    assert first == tokenizer.bos_id
    assert [first, *tokenizer.encode_reply("G-", after=2)] == tokenizer.encode_prompt("G-")
    with pytest.raises(ValueError, match="no id for"):
        tokenizer.encode_reply("é", after=2)
