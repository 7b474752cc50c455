"""`latflow reproduce`: figures of published papers, made anew and set beside the papers' numbers."""

from latflow.app.reproduce.figures import FIGURES, Figure
from latflow.app.reproduce.session import reproduce

__all__ = ["FIGURES", "Figure", "reproduce"]
