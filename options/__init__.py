"""Command lines of the scripts."""
