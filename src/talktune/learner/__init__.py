"""Samples -> update -> checkpoint -> adapter."""
