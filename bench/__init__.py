"""Measurements: protocols, controls and their result files."""
