"""Where things lie, from this file's own place."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
DEPLOY = REPOSITORY / "deploy"
CHART = DEPLOY / "helm/tidelock"
