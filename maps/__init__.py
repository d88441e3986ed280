"""Maps of real places from trained networks: predict.py's."""
