"""What ``python -m fastbn demo`` runs; its network needs NumPy alone, the rest the extra."""
