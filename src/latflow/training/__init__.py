"""Losses, schedules and the training loop."""

from latflow.training.fit import TrainingDiverged, TrainResult, fit, make_loss
from latflow.training.joint_losses import joint_reverse_kl, marginal_with_probes
from latflow.training.losses import forward_kl, path_reverse_kl, plain_reverse_kl, prior_variance, score_reverse_kl
from latflow.training.settings import TrainSettings

__all__ = [
    "TrainResult",
    "TrainSettings",
    "TrainingDiverged",
    "fit",
    "forward_kl",
    "joint_reverse_kl",
    "make_loss",
    "marginal_with_probes",
    "path_reverse_kl",
    "plain_reverse_kl",
    "prior_variance",
    "score_reverse_kl",
]
