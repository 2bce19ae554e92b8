"""Workers in your own code: build one, run it, give its settings to arq's command line, write its hooks.

```python
WorkerSettings = worker_settings(app, load_config())  # for: arq shop.WorkerSettings
```
"""

from ledgerq.config import Config, WorkerConfig, load_config
from ledgerq.settings import PREFIX
from ledgerq.worker.build import build_worker, run_to_the_end, worker_settings
from ledgerq.worker.lifecycle import Lifecycle, lifecycle_of, shutdown, startup
from ledgerq.worker.worker import JobWorker

__all__ = [
    "PREFIX",
    "Config",
    "JobWorker",
    "Lifecycle",
    "WorkerConfig",
    "build_worker",
    "lifecycle_of",
    "load_config",
    "run_to_the_end",
    "shutdown",
    "startup",
    "worker_settings",
]
