"""What can go wrong with weights and training."""

from .. import UnibrivlError


class CheckpointError(UnibrivlError):
    """A checkpoint or weights file that is missing, damaged, or of another model."""


class TowerError(CheckpointError, ValueError):
    """A tower or an option of one that there is not: typed, a mistake of usage; in a checkpoint, a fault of it."""


class TrainError(UnibrivlError):
    """A training run that cannot start or go on."""


class LostProcessError(TrainError):
    """Another process of the run is gone, so that this one cannot go on."""


class TextError(UnibrivlError):
    """A text that gives no units, or a lexicon or vocabulary that does not fit."""
