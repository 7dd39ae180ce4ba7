"""Judged while you talk, better while it serves: the roles of one machine, joined by the store alone."""
