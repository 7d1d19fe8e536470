"""Layers: objects with parameters and running averages, one file for each layer."""
