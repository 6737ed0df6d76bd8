"""Figures, the HTML page and tracking. Reads tables; knows neither models nor caches."""
