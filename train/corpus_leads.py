"""What one record gives to a corpus: every lead through the device's own pipeline, its good windows, what is left out.

Knows no filter and no window loop (train.prepare has them), and nothing of the folder that the windows go to.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from device.pipeline.errors import PipelineError
from device.pipeline.spec import SignalSpec, default_spec
from device.pipeline.types import Window
from device.pipeline.window import SETTLE_S
from train.corpus import STORED, Halves, Lead, Record, Source, shape_of
from train.data import datasets
from train.data.check import ECG_SWING_MV, PIECE_S, defect, typical_swing
from train.data.types import Recording, Signal
from train.errors import TrainError, one_line
from train.prepare import data_hash, windows_of

LARGEST_MV = 32.0
"""No heart is near it after the band-pass; below it float16 is off by 8 uV at most."""
V_MV = ECG_SWING_MV[1] / 1000
"""A lead in V that is believed to be in mV swings by no more than this."""
SAME_PERSON = {"202": "201"}
"""Records of the MIT-BIH Arrhythmia Database that are of one person (its directory)."""

_ORIGINAL = re.compile(r"(?:sel)?(e?\d+)")
"""QTDB's selNNN is a stretch of record NNN of another database; ``e`` begins those of the European ST-T Database."""
_PATIENT = re.compile(r"(?:p|patient|person|subject|sub)[-_]?\d+", re.IGNORECASE)
"""A folder with all records of one person, as in the PTB, ECG-ID and MIMIC databases."""


@dataclass(frozen=True)
class Job:
    """One record to be made, in this process or another."""

    source: Source
    root: Path
    subject: str
    everyone: tuple[str, ...]
    spec: SignalSpec


def corpus_spec() -> SignalSpec:
    """The shipped networks' spec, with windows that do not overlap."""
    spec = default_spec()
    return msgspec.structs.replace(spec, stride_s=spec.window_s)


def person_of(dataset: str, source: str, subject: str) -> str:
    """Whom a subject of a source is; for a record of QTDB the same as for that which it was cut from."""
    if dataset in ("wfdb", "mitbih-tpcp"):
        *folders, name = subject.split("/")
        patient = next((folder for folder in reversed(folders) if _PATIENT.fullmatch(folder)), None)
        original = _ORIGINAL.fullmatch(name)
        if patient is None and original:
            return SAME_PERSON.get(original[1], original[1])
        subject = patient or subject
    return f"{source}/{subject}"


def make(job: Job) -> tuple[Record, Halves]:
    """One record and its windows, (n, 2, n_times); a record that cannot be read says so and has none."""
    recordings, problem = _loaded(job)
    made = [lead_of(recording, lead, job.spec) for recording in recordings for lead in _leads(recording)]
    record = Record(
        job.source.name,
        job.subject,
        person_of(job.source.dataset, job.source.name, job.subject),
        digest(job),
        tuple(lead for lead, _ in made),
        tuple(note for recording in recordings for note in recording.notes),
        problem or ("" if made else "has no ECG"),
    )
    kept = [windows for _, windows in made if len(windows)]
    return record, np.concatenate(kept) if kept else np.empty((0, *shape_of(job.spec)), STORED)


def _loaded(job: Job) -> tuple[list[Recording], str]:
    """The record as its reader gives it, or why it does not: one that fails stops no other."""
    try:
        return datasets.get(job.source.dataset).load(job.root, job.subject), ""
    except (TrainError, OSError) as error:
        return [], one_line(error)
    except Exception as error:
        return [], defect(error)


def _leads(recording: Recording) -> list[Signal]:
    """Each channel of a recording's ECG on its own."""
    if "ecg" not in recording.signals:
        return []
    ecg = recording.signals["ecg"]
    return [replace(ecg, data=ecg.data[:, k : k + 1], ch_names=(name,)) for k, name in enumerate(ecg.ch_names)]


def digest(job: Job) -> str:
    """sha256 over names and bytes of the record's files."""
    return data_hash(job.root, job.subject, job.everyone)


def lead_of(recording: Recording, ecg: Signal, spec: SignalSpec) -> tuple[Lead, Halves]:
    """One lead, (n_times, 1) in mV, and its windows, (n, 2, n_times): ecg mV, heart rate 1/min.

    The recording is dated so that window 0 begins as soon as the pipeline has surely settled, and no part of a window's
    length later.
    """
    settle_s = spec.ecg.warmup_s + SETTLE_S
    dated = replace(recording, signals={"ecg": replace(ecg, start=-settle_s)})
    starts, skipped, windows = [], Counter[str](), []
    problem = unusable(ecg)
    try:
        for window in () if problem else windows_of(dated, spec):
            if window.start < 0:  # all that the settling left of the one before
                continue
            if reason := fault(window, spec):
                skipped[reason] += 1
            else:
                starts.append(window.start + settle_s + ecg.start)
                windows.append(window.data["ecg"].T.astype(STORED))
    except PipelineError as error:  # a rate that cannot carry the spec's band
        problem = one_line(error)
    if not (problem or starts or skipped):
        first_s = settle_s + spec.window_s
        problem = f"is too short: {ecg.duration:.3g} s, where the first window ends after {first_s:g} s"
    told = Lead(recording.session, ecg.ch_names[0], ecg.sfreq, tuple(starts), dict(sorted(skipped.items())), problem)
    return told, np.stack(windows) if windows else np.empty((0, *shape_of(spec)), STORED)


def unusable(signal: Signal) -> str:
    """Why no window of a lead, (n_times, 1), can be right; empty where there is no reason."""
    values = signal.data[:, 0]
    if signal.surrogate:
        return "is rebuilt from other data, not measured"
    if signal.units != "mV":
        return f"is in {signal.units}, not mV"
    if not np.isfinite(values).any():
        return "has no samples"
    swing = typical_swing(values, max(2, round(PIECE_S * signal.sfreq)))
    if swing <= ECG_SWING_MV[1] and (swing == 0 or swing > V_MV):
        return ""
    guess = "V" if swing <= V_MV else "uV or raw counts"
    usual = "{:g} to {:g} mV are usual".format(*ECG_SWING_MV)
    return f"swings by {swing:.3g} mV in {PIECE_S:g} s, where {usual}: is it in {guess}? write its true unit there"


def fault(window: Window, spec: SignalSpec) -> str:
    """Why the device would not use a window's ECG, or it cannot be stored; empty where neither is so."""
    if "ecg" not in window.data:
        return window.missing["ecg"].replace("_", " ")
    if not window.is_good("ecg", spec.sqi_min):
        return ", ".join(window.quality["ecg"].problems) or "quality"
    return "" if np.abs(window.data["ecg"][:, 0]).max() <= LARGEST_MV else f"beyond {LARGEST_MV:g} mV"
