"""``affectd demo``: real recordings played through virtual sensors and the whole path, with a live view."""
