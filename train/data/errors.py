"""Errors of train.data.

DataError               a file of a data set is not what its published layout says (from train.errors)
+-- BeatsError          too little pulse in a recording to give a series of beats
+-- TemplateError       beat templates for the surrogate ECG are missing, cut or from a newer program
"""

from __future__ import annotations

from train.errors import DataError


class BeatsError(DataError):
    """A recording whose pulse gives no usable series of beats."""


class TemplateError(DataError):
    """Beat templates that cannot be used."""


__all__ = ["BeatsError", "DataError", "TemplateError"]
