"""The engineer's folder: a trained checkpoint in, a verified int8 bundle out.

Knows nothing of how networks are trained or of how sensors are read.
"""
