"""A page of the docs as a script: its files are written, its code and its commands are run, in order.

- A block with a title is a file: it is written.
- `python` without a title is run in a process of its own; `await` may stand at its top level.
- `console`: each line after `$ ` is a command; lines below it are what it prints, `…` stands for anything. A command
  that fails prints `ledgerq: …`.
- `sql` is run on the page's database.
- The comment `<!-- not run: why -->` before a block says why it is not.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from markdown_it import MarkdownIt

from tests.acceptance import forked
from tests.acceptance.processes import Process

NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
OF_PEOPLE = {"pip", "make", "docker", "uvicorn", "arq", "systemctl"}  # what no test starts
LEDGERQ = str(Path(sys.executable).with_name("ledgerq"))
LASTING = re.compile(r"ledgerq (dev|worker)\b")  # goes on until it is stopped
RUN = """
import ast, asyncio, inspect, sys
sys.path.insert(0, "")
code = compile(sys.stdin.read(), sys.argv[1], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
namespace = {"__name__": "__main__"}
if code.co_flags & inspect.CO_COROUTINE:
    asyncio.run(eval(code, namespace))
else:
    exec(code, namespace)
"""


def _arguments(command: str) -> list[str]:
    """What `python` is given by a command: a page's are plain words, without what a shell would read into them."""
    program, *words = shlex.split(command)
    assert program in {"python", "ledgerq"}, command
    return words if program == "python" else [LEDGERQ, *words]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str
    line: int
    not_run: str | None  # why

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Of a console block: each command, and what it prints according to the page."""
        told = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        commands = [each.partition("\n") for each in told]
        return [(re.sub(r"\s+# .*$", "", command), printed) for command, _, printed in commands]


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks, in order."""
    reason = None
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "html_block":
            found = NOT_RUN.search(token.content)
            reason = found[1] if found else None
        elif token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            line = token.map[0] + 1 if token.map else 0
            yield Block(language, title[1] if title else None, token.content, line, reason)
            reason = None
        elif token.nesting == 1:  # another paragraph, list or table begins
            reason = None


@dataclass
class Shell:
    """A folder and an environment in which a page is run."""

    folder: Path
    environment: dict[str, str]
    elsewhere: Sequence[str] = ()  # commands that another test runs
    _stack: ExitStack = field(default_factory=ExitStack)

    async def run(self, blocks: Sequence[Block]) -> None:
        """Run them in order; an error names the line of the page."""
        with self.kept():
            for block in blocks:
                await self.run_one(block)

    def kept(self) -> AbstractContextManager[object]:
        """Workers that the page has started end with the block."""
        return self._stack

    async def run_one(self, block: Block) -> None:
        """Write it, run it, or leave it."""
        if block.not_run is not None:
            return
        if block.title is not None:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            self._start(["-c", RUN, f"line {block.line}"], block, block.text)
        elif block.language == "console":
            for command, printed in block.commands:
                self._command(command, printed, block)
        elif block.language == "sql":
            await self._sql(block)

    def _command(self, command: str, printed: str, block: Block) -> None:
        first = command.split(maxsplit=1)[0]
        if first in OF_PEOPLE or command.startswith((*self.elsewhere, "python -m venv")):
            return
        if first == "export":
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value.strip("'\"")
        elif LASTING.match(command):
            self._stack.enter_context(self._lasting(command))
        else:
            fails = printed.startswith("ledgerq: ")
            said = self._start(_arguments(command), block, fails=fails)
            if printed.strip():
                wanted = ".*".join(re.escape(part.strip()) for part in printed.split("…"))
                assert re.fullmatch(wanted, said.strip(), re.DOTALL), f"line {block.line}:\n{said}"

    def _start(
        self,
        arguments: Sequence[str],
        block: Block,
        text: str | None = None,
        *,
        fails: bool = False,
    ) -> str:
        done = forked.run(arguments, cwd=self.folder, env=self.environment, seconds=60, text=text)
        said = done.stderr if fails else done.stdout
        assert (done.returncode != 0) == fails, f"line {block.line}:\n{done.stdout}{done.stderr}"
        return said

    @contextmanager
    def _lasting(self, command: str) -> Iterator[None]:
        """A worker on the page's servers, until the page ends. `dev` has the worker, and servers of its own beside."""
        process = Process(
            [sys.executable, LEDGERQ, "worker", *command.split()[2:]],
            self.environment,
            cwd=self.folder,
        )
        try:
            process.wait_for("worker.started")
            yield
        finally:
            process.close()

    async def _sql(self, block: Block) -> None:
        connection = await asyncpg.connect(self.environment["DATABASE_URL"])
        try:
            await connection.execute(block.text)
        except asyncpg.PostgresError as error:
            raise AssertionError(f"line {block.line}: {error}") from error
        finally:
            await connection.close()


def environment(database_url: str, redis_url: str) -> dict[str, str]:
    """That of a person who has installed ledgerq and pasted what `ledgerq dev` prints."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("LEDGERQ_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "LEDGERQ_LOG_FORMAT": "json",
        "LEDGERQ_POLL_DELAY": "0.02",
    }
