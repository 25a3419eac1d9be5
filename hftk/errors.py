"""The one error that is the user's to mend."""


class UsageError(ValueError):
    """
    A mistake in what the user gave, told in one line: what is wrong, where, and what to do. The command line exits
    with 2.
    """
