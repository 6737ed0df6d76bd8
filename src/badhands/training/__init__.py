"""The stages of train.py that tie rooms together: they read the cache, call pure functions, and write tables."""
