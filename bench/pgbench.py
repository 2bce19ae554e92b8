"""The yardstick: the same two inserts in one transaction, by PostgreSQL's own pgbench and eight clients."""

import asyncio
import re
import shutil
from pathlib import Path

from bench.servers import Servers, run

CLIENTS = 8
_SCRIPT = """\
BEGIN;
INSERT INTO task (title, status, priority, tags, project_id, version)
VALUES ('1700000000.000000', 'todo', 'normal', '[]', 1, 1) RETURNING id \\gset
INSERT INTO audit_log (entity_type, entity_id, action, actor, before, after, job_id, kind, attempt)
VALUES ('task', :id::text, 'create', 'bench', '{}', '{"title": "1700000000.000000", "status": "todo", \
"priority": "normal", "project_id": 1}', :id::text, 'create_task', 1);
COMMIT;
"""


def binary(servers: Servers) -> Path | None:
    """The wheel's, or one that is installed."""
    ours = servers.binaries / "pgbench"
    if ours.exists():
        return ours
    installed = [*Path("/usr/lib/postgresql").glob("*/bin/pgbench"), shutil.which("pgbench")]
    return Path(next(each for each in installed if each)) if any(installed) else None


async def transactions(servers: Servers, program: Path, seconds: float) -> float:
    """Transactions a second on a fresh database."""
    await servers.begin_again("empty")
    script = Path(servers.sockets) / "pgbench.sql"
    script.write_text(_SCRIPT)
    options = ["-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", f"{seconds:.0f}"]
    where = ["-h", servers.sockets, "-U", "postgres", "-f", str(script), "bench"]
    said = await asyncio.to_thread(run, servers, [str(program), *options, *where])
    found = re.search(r"tps = ([\d.]+)", said)
    if not found:
        raise RuntimeError(f"pgbench said: {said[-500:]}")
    return float(found[1])
