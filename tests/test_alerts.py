"""The Prometheus configuration and the alert rules: valid, each tested, each saying what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from required_tool import required_tool

CONFIG = Path(__file__).parents[1] / "config"


@pytest.fixture
def promtool() -> str:
    """Return the path of promtool."""
    return required_tool("promtool", "prometheus")


@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts.test.yml"),
        ("test", "rules", "alerts.days.test.yml"),
    ],
    ids=" ".join,
)
def test_prometheus_accepts(promtool: str, words: tuple[str, ...]) -> None:
    """Prometheus' own checker accepts the file, and the rules fire exactly when their unit tests say."""
    command = [promtool, *words]
    result = subprocess.run(command, cwd=CONFIG, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_rule_tests_can_fail(promtool: str, tmp_path: Path) -> None:
    """The same unit tests refuse rules whose limit was moved, so a pass means something."""
    rules = (CONFIG / "alerts.yml").read_text()
    moved = rules.replace("recio_ingest_lag_seconds > 10", "recio_ingest_lag_seconds > 100")
    assert moved != rules
    (tmp_path / "alerts.yml").write_text(moved)
    (tmp_path / "alerts.test.yml").write_text((CONFIG / "alerts.test.yml").read_text())
    command = [promtool, "test", "rules", "alerts.test.yml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode != 0, result.stdout


def test_every_alert_has_a_unit_test() -> None:
    """No rule is in alerts.yml that no unit test sees firing."""
    rules = set(re.findall(r"- alert: (\w+)", (CONFIG / "alerts.yml").read_text()))
    tests = "".join(path.read_text() for path in CONFIG.glob("alerts*.test.yml"))
    fired = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", tests))
    assert rules
    assert rules == fired


def test_every_alert_says_what_to_do() -> None:
    """Each rule has a severity, a summary and a description, because it is read at night."""
    _, *rules = (CONFIG / "alerts.yml").read_text().split("- alert: ")
    incomplete = [
        rule.splitlines()[0]
        for rule in rules
        if not all(f"{word}: " in rule for word in ("severity", "summary", "description"))
    ]
    assert incomplete == []
