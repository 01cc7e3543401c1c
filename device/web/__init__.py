"""The wearer's page, served on loopback."""
