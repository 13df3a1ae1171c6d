"""The tokenizer of a published checkpoint, read by `transformers`; what it leaves open is decided here.

Published tokenizers differ in which special tokens they name and add. Here a prompt gets those that the tokenizer puts
before a text, never those after it (a completion follows), and a completion ends with one EOS.
"""

import datetime
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr_jax.models.tokenizer import before_eos

log = logging.getLogger(__name__)

VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # transformers needs one of them
MORE_FILES = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    "chat_template.jinja",
)
# Some templates write today's date into every prompt, so that a run could not be repeated on another day. Here it is
# always the one that Llama's template falls back to.
_CHAT_DAY = datetime.date(2024, 7, 26)
_ALWAYS_THAT_DAY = (  # in place of the function that transformers gives a template; functions cannot be passed to one
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace('%{code}', '{_CHAT_DAY.strftime('%' + code)}')" for code in "aAbBdjmuwyYHIMSp")
    + " }}{% endmacro %}\n"  # a new line, which Jinja drops here, so that the template's first line is one
)
_ASSISTANT_PROBE = "b8-assistant-b8"
_PROBE = "In 2024: 12345 + 67.89 =  4^2?\n\n\tThe cat's café, x_1 数学 DON'T"  # where pre-tokenizers differ


class HfTokenizer:
    """A folder's tokenizer, with the surface of `Tokenizer`.

    EOS ids are the tokenizer's own and those of the generation config beside it, which for chat models are several.
    Without a pad token, EOS pads: rows carry their lengths, so no pad is ever read.
    """

    def __init__(self, folder: Path, *, name: str, uses_chat_template: bool):
        """Raises ValueError when the folder has no tokenizer, or one without EOS or chat template.

        Args:
            name: what a config calls it; for messages and records.
            uses_chat_template: a prompt is the user's turn, and the assistant's is begun.
        """
        self.name = name
        self._tokenizer = _loaded(folder, name)
        of_file = _tokenizer_of_file(folder)

        def id_of_special(token: str | None) -> int | None:
            # transformers may append special tokens of its own, with ids that the model never saw
            is_there = token is not None and (of_file is None or of_file.token_to_id(token) is not None)
            return self._tokenizer.convert_tokens_to_ids(token) if is_there else None

        self.eos_ids = _eos_ids(id_of_special(self._tokenizer.eos_token), folder, name)
        self.bos_id = id_of_special(self._tokenizer.bos_token)
        pad_id = id_of_special(self._tokenizer.pad_token)
        self.pad_id = self.eos_ids[0] if pad_id is None else pad_id
        id_of = self._tokenizer.get_vocab()
        self.vocab_size = 1 + max(*id_of.values(), *self.eos_ids, self.pad_id)
        self._known_ids = frozenset(id_of.values())  # a padded head can be drawn from beyond them
        self._uses_chat_template = uses_chat_template
        if uses_chat_template:
            self._check_chat_template()
        self._prefix = self._ids_before_a_text()
        if of_file is not None:
            self._warn_of_other_ids(of_file)
        self.fingerprint = _fingerprint(folder, [self.eos_ids, self.pad_id, uses_chat_template])

    def encode_prompt(self, text: str) -> list[int]:
        """The ids that the policy reads. Raises ValueError when the text has none, or the chat template refuses it."""
        return self.encode_prompts([text])[0]

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of many, on all cores."""
        if self._uses_chat_template:  # which writes the special tokens itself
            prefix, shown = [], [self._as_chat(text) for text in texts]
        else:
            prefix, shown = self._prefix, list(texts)
        rows = [prefix + row for row in self._ids(shown)]
        empty = next((text for text, row in zip(texts, rows, strict=True) if not row), None)
        if empty is not None:
            raise ValueError(f"the tokenizer {self.name} makes no token of the prompt {empty[:80]!r}")
        return rows

    def encode_completion(self, text: str) -> list[int]:
        """The ids of `text` and EOS."""
        return [*self._ids([text])[0], self.eos_ids[0]]

    def encode_reply(self, text: str, *, after: int | None) -> list[int]:
        """The ids of the user's next turn and the assistant's beginning; without a chat template those of `text`.

        What the template has between an assistant's words and a user's comes first, as <|im_end|>, unless it is the EOS
        that the policy has written. Raises ValueError when there are no ids, or when the template does not show an
        assistant's turn before a user's.
        """
        if not self._uses_chat_template:
            ids = self._ids([text])[0]
        else:
            shown = self._as_chat("a7", _ASSISTANT_PROBE, text)
            _, found, rest = shown.rpartition(_ASSISTANT_PROBE)
            if not found or text.strip() not in rest:
                raise ValueError(
                    f"the chat template of the tokenizer {self.name} does not show a user's turn after an assistant's, "
                    "so a rollout cannot have several turns; set model.uses_chat_template=False"
                )
            ids = self._ids([rest])[0]
            ids = ids[1:] if ids[:1] == [after] else ids
        if not ids:
            raise ValueError(f"the tokenizer {self.name} makes no token of the reply {text[:80]!r}")
        return ids

    def completion_lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each, EOS included."""
        return [1 + len(row) for row in self._ids(list(texts))]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids` up to the first EOS; special tokens and ids beyond the vocabulary are left out."""
        known = [i for i in before_eos(token_ids, self.eos_ids) if i in self._known_ids]
        # clean-up would take out spaces before punctuation that the policy wrote
        return self._tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # lengths are compared with the config's limits later; the tokenizer's own would only warn or cut
        options = {"add_special_tokens": False, "truncation": False, "padding": False, "verbose": False}
        try:
            return self._tokenizer(texts, **options)["input_ids"]
        except Exception as error:  # the library raises no narrower kind, as of a character without an id
            if len(texts) > 1:
                return [self._ids([text])[0] for text in texts]  # raises at the text that it is
            raise ValueError(
                f"the tokenizer {self.name} cannot encode {texts[0][:80]!r} ({_one_line(error)})"
            ) from error

    def _ids_before_a_text(self) -> list[int]:
        """What the tokenizer puts before a text of its own accord, as Llama's puts BOS and Qwen's nothing."""
        plain = self._ids(["a"])[0]
        full = self._tokenizer("a", add_special_tokens=True)["input_ids"]
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return full[:start]
        return []

    def _warn_of_other_ids(self, of_file: Any) -> None:
        """The class that transformers picks for a type of model may cut texts in another way than the file says."""
        try:
            ids_of_file, ids = of_file.encode(_PROBE, add_special_tokens=False).ids, self._ids([_PROBE])[0]
        except Exception:  # one that knows a few characters only, as that of an exported built-in model
            return
        if ids_of_file != ids:
            log.warning(
                "the tokenizer %s: transformers reads it as a %s, which gives other ids than its tokenizer.json. If "
                "the model was trained with those of the file, copy the tokenizer's files into a folder without "
                "config.json, with PreTrainedTokenizerFast as tokenizer_class, and name that in model.tokenizer",
                *(self.name, type(self._tokenizer).__name__),
            )

    def _as_chat(self, *texts: str) -> str:
        """A chat of these turns, the user's first, before another of the assistant's."""
        roles = ("user", "assistant")
        try:
            return self._tokenizer.apply_chat_template(
                [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)],
                chat_template=_ALWAYS_THAT_DAY + self._tokenizer.get_chat_template(),
                add_generation_prompt=True,
                tokenize=False,
                date_string=_CHAT_DAY.strftime("%d %b %Y"),
            )
        except Exception as error:  # whatever a template can raise
            raise ValueError(
                f"the chat template of the tokenizer {self.name} fails on a user's turn, on {texts[-1][:80]!r} "
                f"({_one_line(error)}); change that prompt, or set model.uses_chat_template=False"
            ) from error

    def _check_chat_template(self) -> None:
        if not self._tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer {self.name} has no chat template; set model.uses_chat_template=False, or name one that "
                "has it in model.tokenizer"
            )
        if "a7" not in self._as_chat("a7"):
            raise ValueError(
                f"the chat template of the tokenizer {self.name} does not show the user's turn; "
                "set model.uses_chat_template=False"
            )


def _loaded(folder: Path, name: str) -> Any:
    if not any((folder / file).is_file() for file in VOCABULARY_FILES):
        raise ValueError(
            f"{name} has no tokenizer (none of {', '.join(VOCABULARY_FILES)} in {folder}); name a folder or "
            'OWNER/NAME that has one in model.tokenizer, or model.tokenizer="char"'
        )
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would say that torch is missing
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of a file's syntax, a missing package, code that would have to be run: many kinds
        raise ValueError(
            f"the tokenizer {name} in {folder} cannot be read ({_one_line(error)}); name another in model.tokenizer"
        ) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _tokenizer_of_file(folder: Path) -> Any | None:
    """tokenizer.json by itself; None if there is no such file."""
    import tokenizers

    path = folder / "tokenizer.json"
    return tokenizers.Tokenizer.from_file(str(path)) if path.is_file() else None


def _eos_ids(own_id: int | None, folder: Path, name: str) -> tuple[int, ...]:
    """The tokenizer's own EOS first, then what else ends a generation."""
    found = [] if own_id is None else [own_id]
    found += [i for i in _ids_of_generation(folder) if i not in found]
    if not found:
        raise ValueError(
            f"the tokenizer {name} names no EOS token, and no generation_config.json beside it does, so no completion "
            "could end; set eos_token in its tokenizer_config.json, or name another in model.tokenizer"
        )
    return tuple(found)


def _ids_of_generation(folder: Path) -> list[int]:
    """eos_token_id of generation_config.json, or where there is none of config.json, as in transformers."""
    for file in ("generation_config.json", "config.json"):
        path = folder / file
        if path.is_file():
            try:
                value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{path} is no JSON object ({error})") from error
            ids = value if isinstance(value, list) else [] if value is None else [value]
            if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
                raise ValueError(f"{path}: eos_token_id={value!r} must be an id or a list of ids")
            return ids
    return []


def _fingerprint(folder: Path, settings: list[Any]) -> str:
    """16 hex digits over the files that say how texts become ids, and over what was decided here."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name in (*VOCABULARY_FILES, *MORE_FILES):
        if (folder / name).is_file():
            digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()[:16]
