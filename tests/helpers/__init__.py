"""What several tests share: tiny data in the real layouts, and plain readings of the papers."""
