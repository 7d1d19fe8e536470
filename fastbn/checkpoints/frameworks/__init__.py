"""Layers from the objects of other frameworks, one module each; none of them requires its framework at import."""
