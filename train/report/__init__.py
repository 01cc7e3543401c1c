"""Fold records to flat records, Markdown and one HTML page.

Knows nothing of training: whatever writes a fold's JSON can be reported.
"""

from train.report.figures import records
from train.report.markdown import COLUMNS, markdown, read_records, table

__all__ = ["COLUMNS", "markdown", "read_records", "records", "table"]
