"""The environments of peers: ``INGOT_PEERS``, else ``~/.cache/ingot/peers``, has one folder a peer and version.

An environment is complete when it has its record, which is written last; one without is made anew. Why an installation
failed is kept beside it, for tables that have no figures of that peer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.catalogue import Peer

RECORD = "installed.json"
Command = Sequence[str]


class NotInstalledError(RuntimeError):
    """The peer has no environment; the message says why, or how to make it."""


def folder() -> Path:
    """Where the environments lie."""
    return Path(os.environ.get("INGOT_PEERS") or Path.home() / ".cache/ingot/peers")


def place(peer: Peer) -> Path:
    """The environment of a peer, whether or not it is there."""
    return folder() / f"{peer.name}-{peer.version}"


def python(peer: Peer) -> Path:
    """The interpreter of the peer's environment; raises NotInstalledError."""
    if not peer.installs:
        return Path(sys.executable)
    if not (place(peer) / RECORD).is_file():
        raise NotInstalledError(_failure(peer) or f"not installed: python -m benchmarks.peers install {peer.name}")
    return place(peer) / "bin/python"


def install(peer: Peer, *, limit: float = 1800) -> Path:
    """Make the environment unless it is there; `limit` is in seconds, for each step. Returns its folder.

    Raises NotInstalledError with the last line of what went wrong, which `python` says from then on."""
    home = place(peer)
    if not peer.installs or (home / RECORD).is_file():
        return home
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    _reason(peer).unlink(missing_ok=True)
    try:
        _step((str(_interpreter(peer)), "-m", "venv", str(home)), limit)
        pip = (str(home / "bin/python"), "-m", "pip", "--disable-pip-version-check")
        for arguments in peer.installs:
            _step((*pip, "install", "--quiet", *arguments), limit)
        packages = _step((*pip, "freeze", "--all"), limit).split()
    except NotInstalledError as error:
        shutil.rmtree(home, ignore_errors=True)
        _written(_reason(peer), str(error))
        raise
    _written(home / RECORD, json.dumps({"packages": packages, "installs": peer.installs}, indent=1))
    return home


def _interpreter(peer: Peer) -> Path:
    """An interpreter of a version that the peer knows; raises NotInstalledError."""
    newest = peer.newest_python
    if newest is None or sys.version_info[:2] <= (3, newest):
        return Path(sys.executable)
    found = shutil.which(f"python3.{newest}")
    if found is None:
        raise NotInstalledError(f"not installed: it has no package for a Python after 3.{newest}, which is not there")
    return Path(found)


def _step(command: Command, limit: float) -> str:
    """What the command writes; raises NotInstalledError with its last words if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"does not install: {' '.join(command[1:])} took more than {limit:.0f} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise NotInstalledError(f"does not install: {lines[-1].removeprefix('ERROR: ')}")
    return done.stdout


def _reason(peer: Peer) -> Path:
    return place(peer).with_name(f"{place(peer).name}.failed")


def _failure(peer: Peer) -> str:
    return _reason(peer).read_text().strip() if _reason(peer).is_file() else ""


def _written(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_text(f"{text}\n")
    unfinished.replace(path)
