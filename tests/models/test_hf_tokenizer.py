"""Published tokenizers: what is put around a text, what ends a completion, what is refused."""

import json

import numpy as np
import pytest
from published_folder import CHAT_TEMPLATE, save_tokenizer, write_json
from tokenizers import Tokenizer, models, pre_tokenizers

from rlvr_jax.models.char_tokenizer_files import save_char_tokenizer
from rlvr_jax.models.hf_tokenizer import HfTokenizer
from rlvr_jax.models.tokenizer import CharTokenizer

BOS, END, TURN, PAD = 0, 1, 2, 3


def tokenizer_in(folder, *, uses_chat_template=False):
    return HfTokenizer(folder, name="mine", uses_chat_template=uses_chat_template)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One that puts BOS before a text and EOS after it, with a template and two EOS ids."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    write_json(folder / "generation_config.json", {"eos_token_id": [TURN, END]})
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenizer_in(folder)


def plain_ids(folder, text):
    """By the `tokenizers` package alone, without special tokens."""
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def test_a_prompt_gets_what_stands_before_a_text_and_not_the_eos_after_it(folder, tokenizer):
    assert tokenizer.encode_prompt("12+34=") == [BOS, *plain_ids(folder, "12+34=")]


def test_a_tokenizer_that_adds_nothing_is_left_alone(tmp_path):
    save_tokenizer(tmp_path, adds_bos=False)
    assert tokenizer_in(tmp_path).encode_prompt("12+34=") == plain_ids(tmp_path, "12+34=")


def test_a_completion_ends_with_the_tokenizers_own_eos(folder, tokenizer):
    assert tokenizer.encode_completion("46") == [*plain_ids(folder, "46"), END]
    assert tokenizer.encode_completion("") == [END]


def test_many_are_encoded_as_one_by_one(tokenizer):
    texts = ["12+34=", "the sum of é", "7"]
    assert tokenizer.encode_prompts(texts) == [tokenizer.encode_prompt(text) for text in texts]
    assert tokenizer.completion_lengths(texts) == [len(tokenizer.encode_completion(text)) for text in texts]


@pytest.mark.parametrize("text", ["12+34=64", " two  spaces , and a comma", "line\nline", "naïve 数学 🙂"])
def test_a_text_survives_the_way_there_and_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode_prompt(text)) == text
    assert tokenizer.decode(np.array(tokenizer.encode_completion(text), np.int32)) == text


@pytest.mark.parametrize("eos", [END, TURN])
def test_a_text_ends_before_the_first_eos_of_any_kind(folder, tokenizer, eos):
    seven, eight = plain_ids(folder, "7"), plain_ids(folder, "8")
    assert tokenizer.decode([*seven, PAD, *seven, eos, *eight]) == "77"


def test_ids_beyond_the_vocabulary_are_left_out_of_the_text(folder, tokenizer):
    # a published head is padded to a round size, and a random policy draws from the padding too
    assert tokenizer.decode([tokenizer.vocab_size, *plain_ids(folder, "7"), 10**6]) == "7"


def test_spaces_before_punctuation_stay_where_the_policy_wrote_them(tmp_path):
    words = Tokenizer(models.WordLevel({"7": 0, ",": 1, "<|end|>": 2, "<|?|>": 3}, unk_token="<|?|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    write_json(tmp_path / "tokenizer_config.json", config | {"clean_up_tokenization_spaces": True})
    assert tokenizer_in(tmp_path).decode([0, 1, 2]) == "7 ,"


def test_the_eos_ids_are_the_tokenizers_and_those_of_the_generation_config(tmp_path):
    save_tokenizer(tmp_path)
    assert tokenizer_in(tmp_path).eos_ids == (END,)
    write_json(tmp_path / "config.json", {"eos_token_id": 5, "model_type": "qwen2"})
    assert tokenizer_in(tmp_path).eos_ids == (END, 5)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [TURN, END]})
    assert tokenizer_in(tmp_path).eos_ids == (END, TURN)  # in place of config.json's
    write_json(tmp_path / "generation_config.json", {})
    assert tokenizer_in(tmp_path).eos_ids == (END,)


def test_without_its_own_eos_the_generation_config_decides(tmp_path):
    save_tokenizer(tmp_path, eos=None)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": TURN})
    assert tokenizer_in(tmp_path).encode_completion("7")[-1] == TURN


def test_without_any_eos_a_tokenizer_is_refused(tmp_path):
    save_tokenizer(tmp_path, eos=None)
    with pytest.raises(ValueError, match=r"the tokenizer mine names no EOS token.*set eos_token in its"):
        tokenizer_in(tmp_path)


def test_special_tokens_that_only_transformers_adds_are_not_taken_for_the_models(tmp_path):
    # for model_type qwen2 it picks a class that appends <|endoftext|>, for EOS and pad, to any vocabulary
    save_tokenizer(tmp_path, eos=None)
    write_json(tmp_path / "config.json", {"model_type": "qwen2"})
    with pytest.raises(ValueError, match="names no EOS token"):
        tokenizer_in(tmp_path)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": TURN})
    assert (tokenizer_in(tmp_path).eos_ids, tokenizer_in(tmp_path).pad_id) == ((TURN,), TURN)


def test_ids_that_are_not_those_of_the_file_are_warned_of(tmp_path, caplog):
    # the class for model_type qwen2 has a pre-tokenizer of its own, which takes digits one by one
    save_tokenizer(tmp_path)
    alone = tokenizer_in(tmp_path)
    assert alone.encode_prompt("12+34=64")[1:] == plain_ids(tmp_path, "12+34=64")
    assert not caplog.records
    write_json(tmp_path / "config.json", {"model_type": "qwen2"})
    if tokenizer_in(tmp_path).encode_prompt("12+34=64") != alone.encode_prompt("12+34=64"):  # older versions do not
        assert "gives other ids than its tokenizer.json" in caplog.text


def test_pads_are_the_tokenizers_own_or_eos(tmp_path, tokenizer):
    assert tokenizer.pad_id == END
    save_tokenizer(tmp_path, pad_token="<|pad|>")
    assert tokenizer_in(tmp_path).pad_id == PAD


def test_the_chat_template_writes_the_special_tokens_itself(folder):
    chat = tokenizer_in(folder, uses_chat_template=True)
    # {bos}<|turn|>user:12+3<|turn|>assistant: with the BOS that the tokenizer would add as well only once
    expected = [BOS, TURN, *plain_ids(folder, "user:12+3"), TURN, *plain_ids(folder, "assistant:")]
    assert chat.encode_prompt("12+3") == expected
    assert chat.encode_completion("7") == [*plain_ids(folder, "7"), END]


IM_TEMPLATE = (  # in the manner of ChatML: <|turn|> ends a turn
    "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)


def test_a_reply_is_the_users_next_turn_after_the_eos_that_the_policy_wrote(tmp_path):
    save_tokenizer(tmp_path, chat_template=IM_TEMPLATE)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [TURN, END]})
    chat = tokenizer_in(tmp_path, uses_chat_template=True)
    rest = plain_ids(tmp_path, "\nuser\n12+3")
    rest += [TURN, *plain_ids(tmp_path, "\nassistant\n")]
    assert chat.encode_reply("12+3", after=TURN) == rest
    assert chat.encode_reply("12+3", after=END) == [TURN, *rest]
    # prompt, turn and reply are what the template makes of all three
    turn = [*plain_ids(tmp_path, "8"), TURN]
    whole = [*chat.encode_prompt("7"), *turn, *chat.encode_reply("9", after=TURN)]
    shown = "user\n7<|turn|>\nassistant\n8<|turn|>\nuser\n9<|turn|>\nassistant\n"
    assert whole == plain_ids(tmp_path, shown)


def test_without_a_chat_a_reply_is_its_text(folder, tokenizer):
    assert tokenizer.encode_reply("12+3", after=END) == plain_ids(folder, "12+3")
    with pytest.raises(ValueError, match="makes no token of the reply"):
        tokenizer.encode_reply("", after=END)


def test_a_template_without_assistants_turns_takes_no_reply(tmp_path):
    save_tokenizer(tmp_path, chat_template="{{ messages[0].content }}")
    chat = tokenizer_in(tmp_path, uses_chat_template=True)
    with pytest.raises(ValueError, match="does not show a user's turn after an assistant's"):
        chat.encode_reply("12+3", after=END)


@pytest.mark.parametrize("date", ["date_string", "strftime_now('%d %b %Y')"])
def test_a_prompt_does_not_change_with_the_calendar_day(tmp_path, date):
    # as Llama 3.2's: a date_string if it is given one, else today's date
    save_tokenizer(tmp_path, chat_template="{{ " + date + " }}|{{ messages[0].content }}")
    chat = tokenizer_in(tmp_path, uses_chat_template=True)
    assert chat.decode(chat.encode_prompt("12+3")) == "26 Jul 2024|12+3"


def test_the_day_comes_in_the_format_that_a_template_asks_for(tmp_path):
    template = (
        "  {% set day = strftime_now('%A, %Y-%m-%d %H:%M') %}{{ day }}{% if strftime_now is defined %}|{% endif %}"
    )
    save_tokenizer(tmp_path, chat_template=template + "{{ messages[0].content }}")
    chat = tokenizer_in(tmp_path, uses_chat_template=True)
    # and no spaces: transformers strips them before a block at the start of a line
    assert chat.decode(chat.encode_prompt("7")) == "Friday, 2024-07-26 00:00|7"


def test_a_prompt_that_the_chat_template_refuses_is_named(tmp_path):
    template = "{% if 'x' in messages[0].content %}{{ raise_exception('no x') }}{% endif %}{{ messages[0].content }}"
    save_tokenizer(tmp_path, chat_template=template)
    chat = tokenizer_in(tmp_path, uses_chat_template=True)
    with pytest.raises(ValueError, match=r"mine fails on a user's turn, on '7x{79}' \(TemplateError: no x\)"):
        chat.encode_prompts(["7", "7" + "x" * 200])


def test_a_missing_chat_template_is_refused(tmp_path):
    save_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"mine has no chat template; set model\.uses_chat_template=False"):
        tokenizer_in(tmp_path, uses_chat_template=True)


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ raise_exception('no') }}", "fails on a user's turn"), ("{{ bos_token }}", "does not show the user's turn")],
)
def test_a_chat_template_that_cannot_be_used_is_refused(tmp_path, template, words):
    save_tokenizer(tmp_path, chat_template=template)
    with pytest.raises(ValueError, match=words):
        tokenizer_in(tmp_path, uses_chat_template=True)


def test_a_tokenizer_of_few_characters_is_read_and_refuses_the_text_that_it_cannot_encode(tmp_path):
    save_char_tokenizer(tmp_path)  # as beside an exported built-in model
    ours, theirs = CharTokenizer(), tokenizer_in(tmp_path)
    texts = ["12+34=", "What?\n"]
    assert theirs.encode_prompts(texts) == ours.encode_prompts(texts)
    assert (theirs.eos_ids, theirs.pad_id, theirs.vocab_size) == (ours.eos_ids, ours.pad_id, ours.vocab_size)
    for encode in (theirs.encode_prompts, theirs.completion_lengths):
        with pytest.raises(ValueError, match=r"the tokenizer mine cannot encode 'café' \(Exception: WordLevel error"):
            encode(["12+34=", "café", "7"])


def test_a_prompt_without_tokens_is_refused(tmp_path):
    save_tokenizer(tmp_path, adds_bos=False)
    with pytest.raises(ValueError, match="makes no token of the prompt ''"):
        tokenizer_in(tmp_path).encode_prompts(["7", ""])


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"mine has no tokenizer \(none of tokenizer\.json, .*in model\.tokenizer"):
        tokenizer_in(tmp_path)


def test_a_damaged_tokenizer_is_refused(tmp_path):
    save_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"the tokenizer mine in .* cannot be read"):
        tokenizer_in(tmp_path)


def test_a_tokenizer_that_is_code_is_refused(tmp_path):
    save_tokenizer(tmp_path, tokenizer_class="MyTokenizer", auto_map={"AutoTokenizer": ["mine.MyTokenizer", None]})
    (tmp_path / "mine.py").write_text("raise SystemExit('this ran')")
    try:
        got = tokenizer_in(tmp_path)
    except ValueError as error:
        assert "cannot be read" in str(error)  # noqa: PT017
    else:  # some versions read tokenizer.json and leave the code alone
        assert got.decode(got.encode_prompt("12+34=")) == "12+34="


@pytest.mark.parametrize("value", ["2", [True], -1])
def test_an_eos_id_that_is_none_is_refused(tmp_path, value):
    save_tokenizer(tmp_path)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": value})
    with pytest.raises(ValueError, match=r"eos_token_id=.* must be an id or a list of ids"):
        tokenizer_in(tmp_path)


def test_the_fingerprint_tells_tokenizers_apart_and_nothing_else(folder, tokenizer, tmp_path):
    assert tokenizer_in(folder).fingerprint == tokenizer.fingerprint
    found = {tokenizer.fingerprint, tokenizer_in(folder, uses_chat_template=True).fingerprint}
    save_tokenizer(tmp_path)
    found.add(tokenizer_in(tmp_path).fingerprint)  # one EOS id less
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    write_json(tmp_path / "tokenizer.json", content)
    found.add(tokenizer_in(tmp_path).fingerprint)
    assert len(found) == 4
