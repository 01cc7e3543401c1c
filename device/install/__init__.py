"""affectd on a machine: what `affectd install` and `affectd uninstall` do."""
