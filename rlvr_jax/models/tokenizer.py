"""What a tokenizer is, and the character tokenizer of the built-in model."""

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Text to token ids and back."""

    name: str
    fingerprint: str  # of everything the ids depend on: "" where this code alone decides them
    pad_id: int  # never read as a token: lengths say where a row ends, so it may be one of eos_ids
    bos_id: int | None  # None: it names none
    eos_ids: tuple[int, ...]  # each ends a completion; the first is the one that demonstrations end with
    vocab_size: int  # one more than the largest id

    def encode_prompt(self, text: str) -> list[int]:
        """The ids that the policy reads. Raises ValueError when the text has none."""

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of many, faster."""

    def encode_completion(self, text: str) -> list[int]:
        """The ids that the policy would have written, EOS included. Raises ValueError when the text has none."""

    def encode_reply(self, text: str, *, after: int | None) -> list[int]:
        """The ids that the policy reads between a completion, which ended with the EOS `after`, and its next one.

        Raises ValueError when there are none.
        """

    def completion_lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each, EOS included. May raise ValueError at one that has none."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids` up to the first EOS; special tokens are left out."""


class CharTokenizer:
    """One id per printable ASCII character; a prompt starts with `<bos>`, a completion ends with `<eos>`."""

    name, fingerprint = "char", ""
    pad_id, bos_id, eos_ids = 0, 1, (2,)

    def __init__(self) -> None:
        characters = "\n" + "".join(chr(code) for code in range(32, 127))
        self._id_of = {character: 3 + i for i, character in enumerate(characters)}
        self._character_of = {i: character for character, i in self._id_of.items()}
        self.vocab_size = 3 + len(characters)

    def encode_prompt(self, text: str) -> list[int]:
        """`<bos>` and the characters. Raises ValueError naming a character it does not know."""
        return [self.bos_id, *self._encode(text)]

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_prompt` of each."""
        return [self.encode_prompt(text) for text in texts]

    def encode_completion(self, text: str) -> list[int]:
        """The characters and `<eos>`. Raises ValueError naming a character it does not know."""
        return [*self._encode(text), *self.eos_ids]

    def encode_reply(self, text: str, *, after: int | None) -> list[int]:
        """The characters, whatever came before. Raises ValueError naming one it does not know."""
        return self._encode(text)

    def completion_lengths(self, texts: Sequence[str]) -> list[int]:
        """One token per character, known or not, and `<eos>`."""
        return [1 + len(text) for text in texts]

    def _encode(self, text: str) -> list[int]:
        unknown = sorted({c for c in text if c not in self._id_of})
        if unknown:
            raise ValueError(
                f"the character tokenizer of the built-in model has no id for {unknown} in {text[:80]!r}; "
                "it knows printable ASCII and newline"
            )
        return [self._id_of[c] for c in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids` up to `<eos>`; special tokens and ids beyond the vocabulary are left out."""
        return "".join(self._character_of.get(i, "") for i in before_eos(token_ids, self.eos_ids))


def before_eos(token_ids: Sequence[int], eos_ids: tuple[int, ...]) -> list[int]:
    """The ids before the first that ends a completion."""
    token_ids = [int(i) for i in token_ids]
    return token_ids[: next((place for place, i in enumerate(token_ids) if i in eos_ids), None)]
