"""Data sets whose truth is known, and how many of the project's intervals hold it."""
