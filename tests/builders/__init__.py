"""What tests of several folders build on: tiny models, data files, runs and processes."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
