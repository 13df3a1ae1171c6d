"""Text of any origin as text that a page can show."""

import re
from typing import Any

from markupsafe import Markup, escape  # comes with jinja2

# control characters but newline and tab, marks and overrides of writing direction, line separators, halves of
# characters (which have no UTF-8), and what is no character at all
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_EMPHASIS = re.compile(r"(\*\*[^*\n]+\*\*|`[^`\n]+`)")


def printable(value: Any) -> Any:
    """Strings with every character that does not show, or changes how others show, written as an escape: \\x1b.

    Anything else, markup included, is returned as it is.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _UNSHOWABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), value)


def shortened(text: str, n_characters: int) -> str:
    """At most so many characters of a text, and how many are not shown."""
    left_out = len(text) - n_characters
    return text if left_out <= 0 else f"{text[:n_characters]} … [{left_out:,} more characters]"


def emphasised(sentence: str) -> Markup:
    """A sentence of the report's markdown as HTML: **bold** and `code`, nothing else; the rest is escaped."""
    parts = []
    for part in _EMPHASIS.split(str(printable(sentence))):
        if part.startswith("**") and part.endswith("**") and len(part) > 4:
            parts.append(Markup("<strong>{}</strong>").format(part[2:-2]))
        elif part.startswith("`") and part.endswith("`") and len(part) > 2:
            parts.append(Markup("<code>{}</code>").format(part[1:-1]))
        else:
            parts.append(escape(part))
    return Markup("").join(parts)
