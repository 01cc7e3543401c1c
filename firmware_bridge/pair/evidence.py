"""The table of sensors: what affectd takes from each, and how well that is known. `docs/SENSORS.md` holds it.

Knows nothing but the codecs.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

from firmware_bridge.codec import Codec
from firmware_bridge.pair.kinds import use_of
from firmware_bridge.protocols import PROTOCOLS

BASES = {
    "capture": "bytes recorded from a real sensor are decoded in the tests",
    "specification": "a published specification, with its examples in the tests",
    "worked-frame": "frames worked by hand from the maker's or a third party's source",
    "reverse-engineered": "what others found out without the maker's help",
}
"""What each basis means, best first."""
WIDTH = 100
"""Of the text in a terminal; a narrower one folds it."""
HEADS = ("sensor", "protocol", "affectd takes", "basis", "source", "shown by nobody yet", "bond")


def records(protocols: Mapping[str, Codec] = PROTOCOLS) -> list[dict[str, object]]:
    """One record per codec, best known first, for JSON."""
    order = list(BASES)
    ordered = sorted(protocols.values(), key=lambda codec: (order.index(codec.evidence.basis), codec.device))
    return [
        {
            "device": codec.device,
            "protocol": codec.protocol,
            "modality": codec.stream_info.modality,
            "sfreq": codec.stream_info.sfreq,
            "basis": codec.evidence.basis,
            "source": codec.evidence.source,
            "unproven": codec.evidence.unproven,
            "secure": codec.secure,
            "names": list(codec.names),
        }
        for codec in ordered
    ]


def rows(protocols: Mapping[str, Codec] = PROTOCOLS) -> list[tuple[str, ...]]:
    """Cells of the table, in the order of HEADS."""
    return [
        (
            str(it["device"]),
            str(it["protocol"]),
            use_of(protocols[str(it["protocol"])].stream_info),
            str(it["basis"]),
            str(it["source"]),
            str(it["unproven"]),
            "yes" if it["secure"] else "no",
        )
        for it in records(protocols)
    ]


def markdown(protocols: Mapping[str, Codec] = PROTOCOLS) -> str:
    """The table, and what its bases mean."""
    lines = [_line(HEADS), _line(["---"] * len(HEADS))]
    lines += [_line([cells[0], f"`{cells[1]}`", *cells[2:]]) for cells in rows(protocols)]
    meanings = [f"- **{basis}**: {meaning}" for basis, meaning in BASES.items()]
    return "\n".join([*lines, "", *meanings]) + "\n"


def paragraphs(protocols: Mapping[str, Codec] = PROTOCOLS) -> str:
    """The same for a terminal, whose width a table of sentences does not fit."""
    texts = []
    for device, protocol, use, basis, source, unproven, bond in rows(protocols):
        head = f"{device}: {use}" + (", needs a bond" if bond == "yes" else "")
        lines = [f"{protocol}; {basis}: {BASES[basis]}", f"rests on {source}"]
        lines += [f"shown by nobody yet: {unproven}"] if unproven else []
        texts.append(
            "\n".join([head, *(fill(line, WIDTH, initial_indent="  ", subsequent_indent="    ") for line in lines)])
        )
    return "\n\n".join(texts) + "\n"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
