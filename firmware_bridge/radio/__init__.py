"""The radio, for affectd and affectd-pair alike: what a central can do, and conversations with a connected sensor.

``types.py`` is the seam, where the machine's adapter, a simulated one or a scripted fake is put in.
"""
