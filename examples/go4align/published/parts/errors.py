"""The one error that a user of these scripts can cause with a folder of data or an option."""


class ProtocolError(ValueError):
    """Data or options that do not fit; the message says what is there and what should be."""
