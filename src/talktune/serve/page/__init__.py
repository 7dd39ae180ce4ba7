"""The page at `/`, and the routes by which people see what is learned and correct it.

Open it to change what the page shows.
"""
