"""Image files: reading, writing, windows, grids."""
