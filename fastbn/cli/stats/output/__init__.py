"""The results as text, JSON and a picture, and the progress bar."""
