"""From trained networks to probabilities, decisions and files."""
