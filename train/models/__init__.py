"""Networks and classical classifiers, all fed with the device's own windows.

Knows nothing of data sets or of folds.
"""
