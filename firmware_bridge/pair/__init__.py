"""The tool affectd-pair: finds, identifies, bonds, checks and remembers sensors, and looks after the machine's radio.

Knows nothing of the pipeline: what judges a signal comes by argument (`assess.py`).
"""
