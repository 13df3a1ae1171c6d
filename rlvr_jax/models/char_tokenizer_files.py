"""The character tokenizer as files that `transformers` reads, so that an exported built-in model comes with its own."""

import json
from pathlib import Path

from rlvr_jax.models.tokenizer import CharTokenizer

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def save_char_tokenizer(folder: Path) -> list[Path]:
    """Writes tokenizer.json and tokenizer_config.json into a folder and returns them.

    A text becomes `<bos>` and one token per character; an unknown character is an error there as it is here.
    """
    ours = CharTokenizer()
    special = {PAD: ours.pad_id, BOS: ours.bos_id, EOS: ours.eos_ids[0]}
    characters = {ours.decode([i]): i for i in range(len(special), ours.vocab_size)}
    of_bos, of_text = {"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for text, i in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [of_bos, of_text],
            "pair": [of_bos, of_text, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [ours.bos_id], "tokens": [BOS]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": special | characters, "unk_token": "<unk>"},  # which there is none of
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
    }
    paths = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    for path, content in zip(paths, (tokenizer, config), strict=True):
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return paths
