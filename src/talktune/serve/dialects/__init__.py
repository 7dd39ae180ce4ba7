"""The forms in which clients speak: a request becomes the one inner chat request, an answer the client's own form.

Open it to add a dialect, or to see what a client may send.
"""
