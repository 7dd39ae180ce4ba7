"""Files into conversations, conversations into turns, and back out."""
