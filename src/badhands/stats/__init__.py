"""AUROC, folds, resampling, intervals: each written once."""
