"""The drawings of one data set, task and mode, each with its caption.

Knows nothing of the page around them; numbers come from figures, ink from plots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup

from train.report import figures, plots
from train.report.figures import KNOW_NOTHING, OURS, name_of
from train.report.folds import MASKS, Fold
from train.report.words import sensors

Record = Mapping[str, Any]
RIVALS = (("emobed", OURS), ("transformer-pretrained", "transformer-scratch"))
"""Systems and what each is to be better than."""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Subject:
    """Who is drawn, from what."""

    title: str
    folds: Sequence[Fold]
    lead: str
    best: str | None
    """The best classical model or a rival, drawn beside the lead."""
    masks: Mapping[str, str]
    """Masks the lead was judged with, in words."""
    majority: Mapping[str, float]
    """Accuracy of the majority class per mask."""

    @property
    def who(self) -> str:
        """Both systems, in words."""
        return self.lead if self.best is None else f"{self.lead} and {self.best}"

    def two(self, of: Callable[[Sequence[Fold], str, str], T], mask: str) -> tuple[T, T | None]:
        """The same thing of both systems."""
        return of(self.folds, self.lead, mask), None if self.best is None else of(self.folds, self.best, mask)


def lead_system(of_group: Sequence[Record]) -> str | None:
    """The system that is drawn: ours, or the first where ours is not there; None where only int8 was judged."""
    systems = [name_of(r) for r in of_group if r["runtime"] == "float" and r["system"] not in KNOW_NOTHING]
    return OURS if OURS in systems else next(iter(systems), None)


def find(of_group: Sequence[Record], system: str | None, mask: str = "both") -> Record | None:
    """The float record of a system and mask."""
    wanted = (system, mask, "float")
    return next((r for r in of_group if (name_of(r), r["mask"], r["runtime"]) == wanted), None)


def drawings(title: str, folds: Sequence[Fold], of_group: Sequence[Record]) -> list[tuple[str, Markup]]:
    """Captions and SVG: bars per person, confusion, reliability, accuracy over coverage.

    The last two also of every other system that has a rival of its own.
    """
    lead, best = lead_system(of_group), figures.best_classical(of_group)
    if lead is None:
        return []
    subject = _subject(title, folds, of_group, lead, None if best == lead else best)
    made = [_bars(subject), _confusions(subject), _reliabilities(subject), _coverages(subject)]
    for system, rival in RIVALS:
        if system != lead and _is_there(of_group, system):
            other = _subject(title, folds, of_group, system, rival if _is_there(of_group, rival) else None)
            made += [_reliabilities(other), _coverages(other)]
    return [(caption, Markup(drawn)) for caption, drawn in made]


def _is_there(of_group: Sequence[Record], system: str) -> bool:
    return any(name_of(r) == system and r["runtime"] == "float" for r in of_group)


def _subject(title: str, folds: Sequence[Fold], of_group: Sequence[Record], lead: str, best: str | None) -> _Subject:
    found = {mask: record for mask in MASKS if (record := find(of_group, lead, mask))}
    masks = {mask: sensors(mask, record["surrogate_ecg"]) for mask, record in found.items()}
    majority = {mask: record["majority"] for mask, record in found.items()}
    return _Subject(title, folds, lead, best, masks, majority)


def _bars(s: _Subject) -> tuple[str, str]:
    mask, words = next(iter(s.masks.items()))
    ours, theirs = s.two(figures.bars, mask)
    chance = 1 / len(s.folds[0].labels)
    return (
        f"Balanced accuracy per person, {s.who}, {words}. Mean over seeds; the line spans the seeds.",
        plots.per_subject(ours, theirs if theirs and theirs.mean else None, chance, f"{s.title}: {s.who} per person"),
    )


def _confusions(s: _Subject) -> tuple[str, str]:
    tables = {words: figures.confusion(s.folds, s.lead, mask) for mask, words in s.masks.items()}
    there = {words: table for words, table in tables.items() if table is not None}
    return (
        f"Confusion of {s.lead}: share of each true class; in brackets windows of one seed, all people together.",
        plots.confusions(there, s.folds[0].labels, f"{s.title}: confusion of {s.lead}"),
    )


def _reliabilities(s: _Subject) -> tuple[str, str]:
    panels = {words: s.two(figures.reliability, mask) for mask, words in s.masks.items()}
    return (
        f"Reliability of {s.who}, windows of all people and seeds together; a dot's area is its share of them. Above "
        "the dashed line a system is right more often than it says. The table's ECE is made per person: it is greater.",
        plots.reliabilities(panels, (s.lead, s.best), f"{s.title}: reliability of {s.who}"),
    )


def _coverages(s: _Subject) -> tuple[str, str]:
    panels = {words: (*s.two(figures.coverage_curve, mask), s.majority[mask]) for mask, words in s.masks.items()}
    return (
        f"Accuracy over coverage, {s.who}: what is left when windows below a least confidence stay unanswered; one "
        "threshold for everybody, every person the same weight. The dot answers every window that can be scored; what "
        "it lacks to 100 % are labelled windows without usable signals.",
        plots.coverages(panels, (s.lead, s.best), f"{s.title}: accuracy over coverage of {s.who}"),
    )
