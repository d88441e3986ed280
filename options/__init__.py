"""The command lines of the scripts, which are read before torch is imported."""
