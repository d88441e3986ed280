"""Code shared by all scripts; it imports no other package of this project."""
