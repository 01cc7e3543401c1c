"""Text from the radio made fit to print: anyone can advertise any bytes.

Knows nothing of terminals.
"""

from __future__ import annotations

import unicodedata

NAME_LENGTH = 40
"""Characters of an advertised name that are kept: real names have under 20, a hostile one up to 248."""
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
"""Bidirectional classes that turn the rest of a line around in some terminals (Unicode Annex 9)."""
_PILES = frozenset({"Mn", "Me"})
"""Marks that stack on the character before without end."""


def clean(text: str, length: int = NAME_LENGTH) -> str:
    """Without control, format and stacking characters, right-to-left letters as escapes, and not endless."""
    return "".join(map(_printable, unicodedata.normalize("NFC", text[: 8 * length])))[:length].strip()


def _printable(char: str) -> str:
    if not char.isprintable() or unicodedata.category(char) in _PILES:
        return ""
    return f"\\u{ord(char):04x}" if unicodedata.bidirectional(char) in _RIGHT_TO_LEFT else char
