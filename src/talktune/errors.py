"""Exceptions that stand for what the user can mend: the command line prints them as a sentence."""


class UserError(Exception):
    """Something the user can mend: the message names the file, line or field and says what to do."""


class StoreDownError(UserError):
    """The database cannot be reached right now; nothing was written, and the same is worth another try."""
