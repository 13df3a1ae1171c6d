"""Which problems are never trained on, and the order in which they are evaluated."""

import hashlib

HELDOUT_ONE_IN = 10


def is_heldout(content: str) -> bool:
    """One content in ten: a function of the content alone, so that more problems move none across the split."""
    return _hash(content) % HELDOUT_ONE_IN == 0


def fair_order(text: str) -> int:
    """A sort key under which any prefix is a fair sample.

    It is another hash than the split's, and `text` names more than the content, so that two
    wordings of one content stand far from each other.
    """
    return _hash(f"order {text}")


def _hash(text: str) -> int:
    # a file's text may hold half a surrogate pair, which plain UTF-8 refuses
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
