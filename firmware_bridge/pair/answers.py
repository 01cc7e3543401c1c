"""What a person answers while a sensor pairs.

Knows nothing of BlueZ.
"""

from __future__ import annotations

from firmware_bridge.pair.person import Person, agrees

LAST_PASSKEY = 999_999
"""Six digits (Core 5.4, 3 H 2.3.5.3)."""


class PersonAnswers:
    """A given passkey before a question; with ``yes``, no question at all."""

    def __init__(self, person: Person, passkey: int | None = None, yes: bool = False) -> None:
        self._person = person
        self._passkey = passkey
        self._yes = yes
        self._asks = person.there and not yes

    @property
    def capability(self) -> str:
        """Without anybody to type or compare, say so: the sensor may then pair without (Just Works)."""
        return "KeyboardDisplay" if self._asks or self._passkey is not None else "NoInputNoOutput"

    async def passkey(self) -> int | None:
        """The given one, or the person's; None: there is none."""
        if self._passkey is not None or not self._asks:
            return self._passkey
        answer = await self._person.ask("Passkey that the sensor shows (empty: do not pair):")
        digits = answer.replace(" ", "")
        return int(digits) if digits.isascii() and digits.isdigit() and int(digits) <= LAST_PASSKEY else None

    async def confirm(self, passkey: int) -> bool:
        """Whether the sensor shows the same six digits; where nobody can look, it does not."""
        self._person.say(f"The sensor must show {passkey:06d}.")
        return self._yes or (self._asks and await agrees(self._person, f"Does it show {passkey:06d}?"))

    def display(self, passkey: int) -> None:
        """Six digits to be entered on the sensor."""
        self._person.say(f"Enter {passkey:06d} on the sensor.")
