"""Where notifications come from: a radio, a recording, or virtual sensors."""
