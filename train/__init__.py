"""The researcher's folder: public data sets through the device's own signal path, into trained and judged networks.

Knows nothing of the daemon, of radios or of the TFLite runtime.
"""
