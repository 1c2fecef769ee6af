"""What colleagues and CI run before they trust a change is the same, and is there."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
MAKEFILE = (CHECKOUT / "Makefile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
SCRIPTS: dict[str, Any] = PROJECT["tool"]["pdm"]["scripts"]


def test_the_workflow_does_what_ci_does_and_nothing_else() -> None:
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "ci.yml").read_text())
    [job] = workflow["jobs"].values()

    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (CHECKOUT / ".ci" / "run").stat().st_mode & 0o111
    assert workflow["permissions"] == {"contents": "read"}
    # The oldest version that the project takes.
    oldest = re.search(r">=(\d+\.\d+)", PROJECT["project"]["requires-python"])
    assert oldest is not None
    assert job["container"]["image"].startswith(f"python:{oldest[1]}-")


def test_ci_runs_targets_that_are_there() -> None:
    run = re.findall(r"^make ([a-z-]+)", (CHECKOUT / ".ci" / "run").read_text(), re.MULTILINE)

    assert {"check", "test"} <= set(run) <= _targets()


def test_the_hooks_run_what_make_check_runs_with_the_projects_own_tools() -> None:
    config = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    pdm = re.search(r"^PDM := (\S+)$", MAKEFILE, re.MULTILINE)
    checks = {SCRIPTS[name].removesuffix(" .") for name in SCRIPTS["check"]["composite"]}

    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert pdm is not None
    commands = {hook["entry"].removeprefix(f"{pdm[1]} run ").removesuffix(" --force-exclude") for hook in hooks}
    assert commands == checks
    for command in commands:
        assert (CHECKOUT / ".venv" / "bin" / command.split()[0]).exists(), command


def test_make_help_lists_every_target_in_a_group() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)

    assert phony is not None
    assert set(re.findall(r"^  make ([a-z-]+)  +\S", done.stdout, re.MULTILINE)) == set(phony[1].split()) == _targets()
    for group in done.stdout.strip().split("\n\n"):
        title, *lines = group.splitlines()
        assert re.fullmatch(r"[A-Z][a-z ]+", title)
        assert lines


def test_the_changelog_speaks_of_the_present_version() -> None:
    changelog = (CHECKOUT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)

    assert versions[0] == "Unreleased"
    assert versions[1] == PROJECT["project"]["version"]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (\w+)$", changelog, re.MULTILINE)) <= kinds


def _targets() -> set[str]:
    """What is to be typed: a target with a word on what it does."""
    return set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
