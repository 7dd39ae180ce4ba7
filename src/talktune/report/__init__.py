"""What a person reads after a run: plots and one HTML page."""
