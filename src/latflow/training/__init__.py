"""Losses, schedules and the training loop."""

from latflow.training.fit import TrainingDiverged, TrainResult, fit, make_loss
from latflow.training.losses import forward_kl, path_reverse_kl, plain_reverse_kl, prior_variance, score_reverse_kl
from latflow.training.settings import TrainSettings

__all__ = [
    "TrainResult",
    "TrainSettings",
    "TrainingDiverged",
    "fit",
    "forward_kl",
    "make_loss",
    "path_reverse_kl",
    "plain_reverse_kl",
    "prior_variance",
    "score_reverse_kl",
]
