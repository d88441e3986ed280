"""Shared test helpers: tiny data in the real layouts, and plain reference implementations."""
