"""The character tokenizer of the built-in model."""

from collections.abc import Sequence


class CharTokenizer:
    """One id per printable ASCII character; a prompt starts with `<bos>`, a completion ends with `<eos>`."""

    name = "char"
    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self) -> None:
        characters = "\n" + "".join(chr(code) for code in range(32, 127))
        self._id_of = {character: 3 + i for i, character in enumerate(characters)}
        self._character_of = {i: character for character, i in self._id_of.items()}
        self.vocab_size = 3 + len(characters)

    def encode_prompt(self, text: str) -> list[int]:
        """`<bos>` and the characters. Raises ValueError naming a character it does not know."""
        return [self.bos_id, *self._encode(text)]

    def encode_completion(self, text: str) -> list[int]:
        """The characters and `<eos>`. Raises ValueError naming a character it does not know."""
        return [*self._encode(text), self.eos_id]

    def _encode(self, text: str) -> list[int]:
        unknown = sorted({c for c in text if c not in self._id_of})
        if unknown:
            raise ValueError(
                f"the character tokenizer of the built-in model has no id for {unknown} in {text[:80]!r}; "
                "it knows printable ASCII and newline"
            )
        return [self._id_of[c] for c in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`; special tokens are left out."""
        return "".join(self._character_of.get(int(i), "") for i in token_ids)
