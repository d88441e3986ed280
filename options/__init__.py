"""Command lines of the scripts, parsed before torch is imported."""
