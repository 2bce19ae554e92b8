"""What contributors are told is compared with the repository: targets, files, tools, commands, names."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from ledgerq.cli.main import commands as app

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent  # what `.venv/bin` is for a contributor
GITHUB = ROOT / ".github"
FORMS = [path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    GITHUB / "PULL_REQUEST_TEMPLATE.md",
    *FORMS,
    ROOT / ".pre-commit-config.yaml",
    GITHUB / "workflows" / "ci.yml",
]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KINDS_OF_CHANGE = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_in(page: Path) -> str:
    """The page's code blocks, code spans and links, a line each; without URLs."""
    text = page.read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", prose)
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    return re.sub(r"\S+://\S+", "", "\n".join([*blocks, *spans, *links]))


def paths_in(code: str) -> set[str]:
    words = set(re.findall(r"(?<!\S)[\w./-]+(?!\S)", code))
    return {word for word in words if "/" in word or re.search(r"^\.|\.(md|toml|ya?ml|py)$", word)}


def read_yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def check_tool(path: str) -> None:
    """It is in the environment that the lock makes."""
    assert path.startswith(".venv/bin/")
    assert (BIN / Path(path).name).exists(), path


@each_page
def test_the_make_targets_that_contributors_are_told_exist(page: Path) -> None:
    """Each `make x` is a rule of the Makefile."""
    for target in re.findall(r"make ([a-z-]+)", code_in(page)):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@each_page
def test_the_files_that_contributors_are_told_exist(page: Path) -> None:
    """Each path stands in the repository, each tool in the environment."""
    for path in paths_in(code_in(page)) - {".venv"}:
        if path.startswith(".venv/"):
            check_tool(path)
        else:
            assert (ROOT / path).exists(), path


@each_page
def test_the_commands_that_contributors_are_told_exist(page: Path) -> None:
    """Each `ledgerq …` is a command that has these options."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"^ledgerq (.+)$", code_in(page), re.MULTILINE):
        name, *rest = line.split()
        command = commands[name]
        if rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest[0]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, line


@each_page
def test_the_variables_that_contributors_are_told_are_read(page: Path) -> None:
    """Each name in capitals stands in the docs, the Makefile or the code of the tests."""
    settings = ROOT / "docs" / "reference" / "settings.md"
    sources = [settings, ROOT / "Makefile", *(ROOT / "tests").rglob("*.py")]
    known = {
        name
        for source in sources
        if source != Path(__file__)
        for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", source.read_text())
    }
    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", code_in(page))) <= known


def test_the_tests_that_contributors_are_told_exist() -> None:
    """A test that is named, a word to pick tests by."""
    existing = {
        path.relative_to(ROOT).as_posix(): re.findall(r"def (test_\w+)\(", path.read_text())
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    code = code_in(ROOT / "CONTRIBUTING.md")
    names = {name for names in existing.values() for name in names}
    assert set(re.findall(r"^(test_\w+)$", code, re.MULTILINE)) <= names
    for file, word in re.findall(r"pytest (\S+) -k (\w+)", code):
        assert any(word in name for name in existing[file]), word


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_an_issue_form_is_one_that_the_site_can_show(form: Path) -> None:
    """It has a name, a description, and fields with ids of their own."""
    content = read_yaml(form)
    assert content["name"]
    assert content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) > 0


def test_blank_issues_are_closed_in_favour_of_the_forms() -> None:
    """The bug form is what sends a vulnerability to its private channel."""
    assert read_yaml(GITHUB / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": False}
    assert "`SECURITY.md`" in (GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text()


def test_ci_runs_the_projects_own_script_on_each_supported_python() -> None:
    """What CI demands is what a contributor can run at home."""
    (job,) = read_yaml(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    (script,) = [step["run"] for step in job["steps"] if "run" in step]
    assert script == ".ci/run"
    assert (ROOT / script).stat().st_mode & 0o111
    pythons = job["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    (image,) = set(
        re.findall(r"^FROM python:([\d.]+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    )
    assert image in pythons


def test_ci_may_read_the_sources_and_nothing_else() -> None:
    """A pull request runs a stranger's code: no rights, no kept token, an end."""
    workflow = read_yaml(GITHUB / "workflows" / "ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 60
    assert "permissions" not in job
    used = {step["uses"]: step.get("with", {}) for step in job["steps"] if "uses" in step}
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)
    (checkout,) = [given for action, given in used.items() if action.startswith("actions/checkout")]
    assert checkout["persist-credentials"] is False
    (setup,) = [
        given for action, given in used.items() if action.startswith("actions/setup-python")
    ]
    assert (ROOT / setup["cache-dependency-path"]).exists()


def test_the_hooks_of_a_commit_are_steps_of_make_check() -> None:
    """They call the tools of the lock, so no version is pinned a second time."""
    (repo,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        tool, *arguments = hook["entry"].split()
        check_tool(tool)
        words = [word for word in arguments if not word.startswith("-")]
        assert " ".join([tool.replace(".venv/bin", "\t$(BIN)"), *words]) in MAKEFILE


def test_the_licence_goes_along_with_every_copy() -> None:
    """The metadata names it, and the image is built with its text."""
    assert PROJECT["license"] == "MIT"
    assert PROJECT["license-files"] == ["LICENSE"]
    (author,) = PROJECT["authors"]
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n")
    assert re.search(rf"^Copyright \(c\) \d{{4}} {author['name']}$", text, re.MULTILINE)
    assert re.search(r"^COPY .*\bLICENSE\b", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_the_changelog_keeps_its_form() -> None:
    """Versions with their dates, newest first, and in each the six kinds of change in their order."""
    _, *versions = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0].startswith("[Unreleased]\n")
    for version in versions[1:]:
        assert re.match(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d\n", version)
    for version in versions:
        kinds = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert kinds == [kind for kind in KINDS_OF_CHANGE if kind in kinds]
