"""The launchers, started with stand-ins for the clouds' commands on the PATH."""

import os
import subprocess
import sys
from pathlib import Path

from tests.builders import ROOT

STAND_INS = ROOT / "tests/launch"
POD = {"NAME": "pod", "ZONE": "z", "TYPE": "v5litepod-16", "POLL_SECONDS": "0", "INSTALL": "true"}


def launch(script: str | Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "RESTART_SECONDS": "0", "GRACE_SECONDS": "2", **variables}
    environment["PATH"] = f"{STAND_INS}:{Path(sys.executable).parent}:{environment['PATH']}"
    command = [str(ROOT / "launch" / script), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
