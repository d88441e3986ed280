"""What every script shares; imports nothing of ours outside this package."""
