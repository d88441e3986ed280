"""Rucode: two dates in one file of 8 bands."""
