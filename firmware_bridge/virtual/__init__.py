"""Virtual sensors: peripherals that speak the real protocols over real GATT, misbehave on command, and need no radio.

They know nothing of affectd's daemon: a kernel's Bluetooth stack (``serve``) or a simulated central (``central.py``)
talks to them as to any sensor. bumble carries the link; the signals are recordings.
"""
