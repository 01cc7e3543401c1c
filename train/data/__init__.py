"""Readers of public data sets, each giving the same thing: a Recording. One file per set.

Knows nothing of windows, labels as numbers for a loss, or networks.
"""
