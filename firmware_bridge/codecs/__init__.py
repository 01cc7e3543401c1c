"""One file per sensor protocol: bytes to values and back, side by side.

Knows nothing of radios, clocks of the host or files; standard library only.
"""
