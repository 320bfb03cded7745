"""The error a person at the command line can mend."""


class UserError(ValueError):
    """Bad input: one sentence that names what was wrong, what was expected and what came.

    The command line prints it as one line and exits with status 2; a caller in Python sees a ``ValueError``.
    """
