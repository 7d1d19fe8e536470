"""Colours of the pictures; blue and orange differ for colour-blind readers too."""

INK, GREY, FAINT = "#222222", "#767676", "#e4e4e4"
BLUE, ORANGE = "#0b6fa4", "#d1602b"
