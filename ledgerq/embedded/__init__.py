"""Servers for development, demos and tests: a real PostgreSQL and a real Redis, without root or docker.

```python
with embedded.servers(Path(".servers")) as servers:
    print(servers.database_url, servers.redis_url)
```
"""

from ledgerq.embedded.both import Servers, postgresql, redis, servers, stop
from ledgerq.embedded.own_folder import open_private
from ledgerq.embedded.process import EmbeddedServerError

__all__ = [
    "EmbeddedServerError",
    "Servers",
    "open_private",
    "postgresql",
    "redis",
    "servers",
    "stop",
]
