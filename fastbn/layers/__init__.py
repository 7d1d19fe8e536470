"""Layers: objects with parameters, and running averages for some; one file for each layer."""
