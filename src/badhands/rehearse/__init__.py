"""A study's cost on this machine, from a model of random weights, before anything is downloaded."""
