"""Maps of georeferenced images, predicted by trained networks (predict.py)."""
