"""The terminal's screens in docs/screens/: the tutorial is run, and what its terminal shows is drawn as SVG.

`make docs-screens` draws them anew. The drawings load no font from elsewhere.
"""

import asyncio
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import make_url

from db.schema import migrate
from ledgerq import embedded
from ledgerq.database.settings import DatabaseConfig
from tests.acceptance.pages import Shell, blocks_of, environment
from tests.acceptance.processes import ROOT

SCREENS = ROOT / "docs" / "screens"
COLUMNS = 104
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # loaded from elsewhere
TAKEN = {
    "ledgerq dead list": "dead",
    "ledgerq job shop:close:1": "job",
    "ledgerq status": "status",
}


class Photographer(Shell):
    """Runs a page, and draws what some of its commands print."""

    async def run_and_draw(self, page: Path) -> None:
        """It stops before the dead letter is replayed: by then each command has something to show."""
        blocks = list(blocks_of(page))
        last = next(n for n, block in enumerate(blocks) if "dead replay" in block.text)
        with self.kept():
            for block in blocks[:last]:
                await self.run_one(block)
            for command, name in TAKEN.items():
                self.draw(command, name)

    def draw(self, command: str, name: str) -> None:
        """One command, as a terminal of so many columns shows it."""
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text.from_ansi(on_a_terminal(command, self.environment, self.folder)))
        drawn = console.export_svg(title=command, unique_id=name)
        SCREENS.mkdir(exist_ok=True)
        (SCREENS / f"{name}.svg").write_text(
            re.sub(r"[ \t]+$", "", FONT.sub("", drawn), flags=re.MULTILINE)
        )


def on_a_terminal(command: str, environment: Mapping[str, str], folder: Path) -> str:
    """What it writes, with its colours."""
    ours, theirs = pty.openpty()
    env = {**environment, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(command.split(), stdout=theirs, env=env, cwd=folder)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65_536):
            said += part
    except OSError:
        pass  # how Linux says that the other side was closed
    os.close(ours)
    if process.wait():
        sys.exit(f"{command}: status {process.returncode}")
    return said.decode().replace("\r\n", "\n").rstrip()


def main() -> None:
    """Servers of their own, the tutorial, the drawings."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        with (
            embedded.postgresql(place / "postgresql") as database_url,
            embedded.redis(place / "redis") as redis_url,
        ):
            migrate(DatabaseConfig(url=make_url(database_url)))
            page = place / "page"
            page.mkdir()
            shell = Photographer(page, environment(database_url, redis_url))
            asyncio.run(shell.run_and_draw(ROOT / "docs" / "tutorial.md"))


if __name__ == "__main__":
    main()
