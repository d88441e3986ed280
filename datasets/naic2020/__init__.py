"""NAIC 2020: lists of files, 16-bit labels."""
