"""What can go wrong with weights and training."""

from .. import UnibrivlError


class CheckpointError(UnibrivlError):
    """A checkpoint or weights file that is missing, damaged, or of another model."""


class TrainError(UnibrivlError):
    """A training run that cannot start or go on."""


class TextError(UnibrivlError):
    """A text that gives no units, or a lexicon or vocabulary that does not fit."""
