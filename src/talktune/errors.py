"""The one exception that stands for a user's mistake: the command line prints it as a sentence."""


class UserError(Exception):
    """Something the user can mend: the message names the file, line or field and says what to do."""
