"""What a program of a test runs as its worker."""

from ledgerq import App
from ledgerq.config import load_config
from ledgerq.logs import configure_logging
from ledgerq.workers import build_worker, run_to_the_end


def run_worker_of(app: App) -> None:
    """A worker of these jobs, by the settings of the environment, until it is told to stop."""
    config = load_config()
    configure_logging(config.worker.log_format, config.worker.log_level)
    run_to_the_end(build_worker(app, config))
