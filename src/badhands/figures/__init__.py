"""Data frames in, PNG out."""
