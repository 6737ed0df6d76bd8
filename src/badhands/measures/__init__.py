"""Bhattacharyya distance, directions, PCA and their nulls: the mathematics, and the stage that runs it."""
