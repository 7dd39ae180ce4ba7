"""Whether a request is a person's or one that a client makes for itself, like a title: those are never learned from.

Open it where a client's own request was taken for a person's, or the other way round.
"""
