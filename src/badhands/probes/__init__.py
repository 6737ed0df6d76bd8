"""Probes: all cells at once, on leak-proof folds, scored out of fold, with the controls beside them."""
