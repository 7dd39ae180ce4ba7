"""The whole loop on the shipped model, with a scripted user who talks only in words."""
