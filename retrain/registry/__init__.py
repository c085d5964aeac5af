"""The only MLflow package: runs, windows, versions, aliases; and the champion, for whatever serves."""

from retrain.registry.champion import Champion, load_champion
from retrain.registry.runs import Run
from retrain.registry.versions import Move, Registry, Version

__all__ = ["Champion", "Move", "Registry", "Run", "Version", "load_champion"]
