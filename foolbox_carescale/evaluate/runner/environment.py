"""When, on what and from which commit a run is made: for its config and its page."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path

import torch


def describe(device: str, folder: Path) -> str:
    """Return date, processor, cores, GPU and Git commit, as one line.

    Args:
        device: Of the run.
        folder: Whose repository is named, if it lies in one.
    """
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    parts = [now, _processor(), f"{os.cpu_count()} cores"]
    if device.startswith("cuda") and torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    if commit := commit_of(folder):
        parts.append(f"commit {commit[:12]}")
    return ", ".join(parts)


def commit_of(folder: Path) -> str:
    """Return the commit that a folder's Git repository is at; empty where there is none.

    Only files are read: git itself can run what a repository's configuration names.
    """
    try:
        root = next(one / ".git" for one in (folder, *folder.parents) if (one / ".git").exists())
        if root.is_file():  # of a worktree
            named = Path(root.read_text(encoding="utf-8").partition("gitdir:")[2].strip())
            root = folder / named
        head = (root / "HEAD").read_text(encoding="utf-8").strip()
        if head.startswith("ref: "):
            name = head.removeprefix("ref: ")
            shared = root / "commondir"
            common = root / shared.read_text(encoding="utf-8").strip() if shared.exists() else root
            loose = common / name
            if loose.is_file():
                head = loose.read_text(encoding="utf-8").strip()
            else:
                packed = (common / "packed-refs").read_text(encoding="utf-8").splitlines()
                head = next(line.split()[0] for line in packed if line.endswith(f" {name}"))
    except (OSError, StopIteration, UnicodeDecodeError, ValueError):
        return ""
    return head if re.fullmatch("[0-9a-f]{40,64}", head) else ""


def _processor() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        info = ""
    named = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
