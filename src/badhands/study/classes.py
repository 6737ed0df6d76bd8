"""Classes of a token, written once: the numbers stand in label files, masks and the labelling page."""

from enum import IntEnum


class TokenClass(IntEnum):
    """What a token shows."""

    UNLABELLED = 0
    GOOD = 1
    """Part of a hand that would be accepted in a picture one publishes."""
    BAD = 2
    """Part of a hand with any serious deformity, wherever on the hand it is."""
    NOT_HAND = 3


class ErrorKind(IntEnum):
    """What is wrong with a bad hand."""

    UNKNOWN = 0
    LOCAL = 1
    """One wrong finger."""
    GLOBAL = 2
    """Wrong as a whole."""


# Plain integers: NumPy promotes a member of an IntEnum to int64, an int takes the dtype of the array beside it.
UNLABELLED, GOOD, BAD, NOT_HAND = map(int, TokenClass)
UNKNOWN_KIND, LOCAL, GLOBAL = map(int, ErrorKind)
