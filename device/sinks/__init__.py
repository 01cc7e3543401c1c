"""Where predictions go: each sink behind its own bounded queue, so that a slow one never delays a sample."""
