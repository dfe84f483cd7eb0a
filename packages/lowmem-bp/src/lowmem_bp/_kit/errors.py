"""Errors of this folder; each also is the built-in kind, so that an existing handler works."""


class KitError(Exception):
    """Base of the errors below."""


class RunFolderError(KitError, FileExistsError):
    """The folder for a run's results holds something already."""


class SweepError(KitError, RuntimeError):
    """A process ended in the midst of a run."""


class ReportError(KitError, ValueError):
    """A report was given something it cannot show."""


class ScoreError(KitError, ValueError):
    """Scores of a wrong shape, or not finite."""
