"""Finds a program that tests run, and says so loudly where it is missing."""

from __future__ import annotations

import os
import shutil

import pytest


def required_tool(name: str, package: str) -> str:
    """Return the path of `name`; without it fail in CI, where skipping would hide a gap, and skip elsewhere."""
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"{name} is not installed, so its checks did not run: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
