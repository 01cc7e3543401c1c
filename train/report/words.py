"""The words and number formats that every form of the report shares.

Knows nothing of where they are printed.
"""

from __future__ import annotations

from collections.abc import Sequence

MODE_WORDS = {"calibrated": "calibrated", "cold_start": "cold start"}
DATASET_WORDS = {
    "wesad": "WESAD",
    "stress-predict": "Stress-Predict",
    "amigos": "AMIGOS",
    "recola": "RECOLA",
    "dreamer": "DREAMER",
}
SENSOR_WORDS = {"both": "ECG + EDA", "ecg": "ECG alone", "eda": "EDA alone"}
SYSTEM_WORDS = {"majority": "majority class", "presence": "which sensors there are"}
SURROGATE = (
    "No chest ECG stands behind figures marked so: surrogate ECG is rebuilt from the real beat times of the wrist's "
    "pulse and real beat templates. EDA is real. Figures on recorded ECG may differ."
)
LEAST_P = 0.001


def sensors(mask: str, surrogate: bool) -> str:
    """A mask in words; ECG that nobody recorded is never called ECG."""
    return SENSOR_WORDS[mask].replace("ECG", "surrogate ECG") if surrogate else SENSOR_WORDS[mask]


def system_words(system: str, runtime: str = "float") -> str:
    """A system's name, with its runtime where it is not the float network."""
    return SYSTEM_WORDS.get(system, system) + (f" {runtime}" if runtime != "float" else "")


def column_words(column: tuple[str, str]) -> str:
    """A data set and its task."""
    dataset, task = column
    return f"{DATASET_WORDS.get(dataset, dataset)} {task}"


def figure(value: float | None, digits: int = 3) -> str:
    """A share; nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def interval(ci95: Sequence[float], signed: bool = False) -> str:
    """Both ends; with signs for a difference."""
    low, high = ci95
    return f"{low:+.3f} to {high:+.3f}" if signed else f"{low:.3f}-{high:.3f}"


def p_value(p: float | None) -> str:
    """A p of a test; nothing where none was made."""
    return "" if p is None else f"< {LEAST_P:g}" if p < LEAST_P else f"{p:.3f}"


def p_words(p: float | None) -> str:
    """The same within a sentence."""
    return "no test" if p is None else f"p {p_value(p)}" if p < LEAST_P else f"p = {p_value(p)}"


def table_lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its last line ended."""
    rows = (head, ["---"] * len(head), *body)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
