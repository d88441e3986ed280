"""Benchmark programs; no other package imports them."""
