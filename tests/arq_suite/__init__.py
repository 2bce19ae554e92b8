"""arq's own tests, run on our worker: `make arq-suite`."""
