"""Directions, distances and their nulls: pure functions on arrays, one equation each. Knows neither disk nor models."""
