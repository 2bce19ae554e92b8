"""`python -m worker` is `ledgerq`."""

from worker.cli import main

if __name__ == "__main__":
    main()
