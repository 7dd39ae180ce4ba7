"""What becomes of an answer: the turn that it continues is found, and the new turn is committed with its tokens.

Open it where a reaction reached the wrong turn, or none.
"""
