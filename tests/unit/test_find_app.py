"""The command line finds the application that it is about, or says which part of its name is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ledgerq.cli.find_app import alembic_ini, find_app, require_app
from ledgerq.errors import SettingError, UsageError
from tests.acceptance import forked

SHOP = "from ledgerq import App\n\napp = App(jobs=[])\nother = 3\n\n\nclass Site:\n    app = app\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service's folder, in which the command is started."""
    (tmp_path / "shop_of_test.py").write_text(SHOP)
    (tmp_path / "broken_of_test.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_no_name_is_no_application() -> None:
    """Commands that need none go on; the others say how to name one."""
    assert find_app() is None
    with pytest.raises(
        UsageError, match="--app: is missing, and so is LEDGERQ_APP; name it as module:attribute"
    ):
        require_app()


@pytest.mark.parametrize("name", ["shop_of_test:app", "shop_of_test:Site.app"])
def test_the_variable_names_one_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Which is importable then, whatever started the command."""
    monkeypatch.setenv("LEDGERQ_APP", name)
    assert [kind.name for kind in require_app().jobs] == ["prune_processed_jobs"]


def test_pyproject_names_one_for_every_folder_below(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The modules are looked for beside the file."""
    (folder / "pyproject.toml").write_text('[tool.ledgerq]\napp = "shop_of_test:app"\n')
    monkeypatch.chdir(folder / "deep" / "er")
    assert find_app() is not None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("shop_of_test", "does not name a module and an attribute"),
        (":app", "does not name a module and an attribute"),
        ("no_shop.here:app", "there is no module 'no_shop'"),
        ("shop_of_test.part:app", "there is no module 'shop_of_test.part'"),
        (".shop_of_test:app", "does not name a module and an attribute"),
        ("shop_of_test..x:app", "does not name a module and an attribute"),
        ("shop_of_test:ap", "shop_of_test has no 'ap'"),
        ("shop_of_test:other", "is a int, not an App"),
    ],
)
def test_the_wrong_part_of_a_name_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    """And where the name comes from."""
    monkeypatch.setenv("LEDGERQ_APP", name)
    with pytest.raises(
        SettingError, match=f"^LEDGERQ_APP: '{name}'.* {problem}|^LEDGERQ_APP: .*{problem}"
    ):
        find_app()


def test_an_error_in_the_service_s_own_code_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that imports one which is not there: its traceback says where."""
    monkeypatch.setenv("LEDGERQ_APP", "broken_of_test:app")
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        find_app()


def test_a_pyproject_that_is_no_toml_is_named(folder: Path) -> None:
    """With the reason."""
    (folder / "pyproject.toml").write_text("[tool.ledgerq\n")
    with pytest.raises(UsageError, match=r"pyproject\.toml: can't be read"):
        find_app()


def test_a_pyproject_of_somebody_else_is_not_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code would run as ours: in a folder that everybody may write, and below it."""
    (folder / "pyproject.toml").write_text('[tool.ledgerq]\napp = "shop_of_test:app"\n')
    folder.chmod(0o777)
    monkeypatch.chdir(folder / "deep")
    with pytest.raises(
        UsageError, match="others may write it; name the application by LEDGERQ_APP"
    ):
        find_app()
    monkeypatch.setenv("LEDGERQ_APP", "shop_of_test:app")
    monkeypatch.chdir(folder)
    assert find_app() is not None


@pytest.mark.parametrize("text", ["[tool.ledgerq\n", '[tool]\nledgerq = "x"\n', "tool = 3\n"])
def test_a_pyproject_above_that_says_nothing_of_use_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """It is not about us."""
    (folder / "pyproject.toml").write_text(text)
    monkeypatch.chdir(folder / "deep")
    assert find_app() is None


def test_the_nearest_pyproject_about_us_is_the_only_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands above it belongs to another project: its application and its history too."""
    (folder / "pyproject.toml").write_text(
        '[tool.ledgerq]\napp = "shop_of_test:app"\nalembic = "alembic.ini"\n'
    )
    (folder / "alembic.ini").touch()
    monkeypatch.chdir(folder / "deep" / "er")
    assert alembic_ini() == folder / "alembic.ini"
    (folder / "deep" / "pyproject.toml").write_text('[tool.ledgerq]\napp = "child:app"\n')
    assert alembic_ini() is None
    (folder / "deep" / "pyproject.toml").write_text('[tool.ledgerq]\nalembic = "a.ini"\n')
    (folder / "deep" / "a.ini").touch()
    assert find_app() is None
    assert alembic_ini() == folder / "deep" / "a.ini"


def test_a_history_is_that_of_the_application_beside_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another application that the variable names has its own, or says so; never this one."""
    (folder / "pyproject.toml").write_text(
        '[tool.ledgerq]\napp = "shop_of_test:app"\nalembic = "alembic.ini"\n'
    )
    (folder / "alembic.ini").touch()
    monkeypatch.setenv("LEDGERQ_APP", "shop_of_test:app")
    assert alembic_ini() == folder / "alembic.ini"
    monkeypatch.setenv("LEDGERQ_APP", "shop_of_test:Site.app")
    with pytest.raises(UsageError, match="is the history of 'shop_of_test:app', not of 'shop_of_t"):
        alembic_ini()
    monkeypatch.setenv("LEDGERQ_APP", "with_history_of_test:app")
    (folder / "with_history_of_test.py").write_text(
        "from pathlib import Path\nfrom ledgerq import App\napp = App(jobs=[], migrations=Path('own'))\n"
    )
    find_app()
    assert alembic_ini() is None


def test_a_pyproject_with_a_byte_order_mark_is_read(folder: Path) -> None:
    """Editors on Windows write one."""
    (folder / "pyproject.toml").write_text(
        '[tool.ledgerq]\napp = "shop_of_test:app"\n', encoding="utf-8-sig"
    )
    assert find_app() is not None


def test_a_module_below_src_is_said_to_be_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command does not look there, so the cure is another one."""
    (folder / "src" / "shop_in_src").mkdir(parents=True)
    monkeypatch.setenv("LEDGERQ_APP", "shop_in_src.ledger:app")
    with pytest.raises(UsageError, match=r"it stands in .*/src: install the project"):
        find_app()


def test_a_folder_that_was_deleted_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable may name what is installed."""
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert find_app() is None
    monkeypatch.setenv("LEDGERQ_APP", "worker.app:app")
    assert find_app() is not None


def test_the_name_may_come_from_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every setting; the option comes first."""
    (folder / "name").write_text("shop_of_test:app\n")
    monkeypatch.setenv("LEDGERQ_APP_FILE", str(folder / "name"))
    assert find_app() is not None


def test_the_option_names_one_and_a_command_that_needs_none_works_without(folder: Path) -> None:
    """Exit status 2 and one line where one is missing."""
    theirs = {name: value for name, value in os.environ.items() if name != "LEDGERQ_APP"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forked.run(("-m", "ledgerq", *arguments), env=theirs, cwd=Path.cwd(), seconds=60)

    assert "prune_processed_jobs" in run("kinds", "--app", "shop_of_test:app").stdout
    missing = run("kinds")
    assert missing.returncode == 2
    assert missing.stderr == (
        "ledgerq: --app: is missing, and so is LEDGERQ_APP; name it as module:attribute, as in shop.ledger:app\n"
    )
    wrong = run("kinds", "--app", "nowhere:app")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("ledgerq: --app: 'nowhere:app': there is no module 'nowhere'")
    assert run("--help").returncode == 0
