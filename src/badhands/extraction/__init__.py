"""The stages of extract.py: images, labels, choice, replay with capture.

A room of its own: it is the only place where `diffusion` (which knows nothing of disk and labels) and `study` (which
knows nothing of models) meet.
"""
