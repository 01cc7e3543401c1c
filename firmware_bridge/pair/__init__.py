"""The tool affectd-pair: finds, identifies and remembers sensors.

Knows nothing of the pipeline or of the daemon.
"""
