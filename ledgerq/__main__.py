"""`python -m ledgerq` is `ledgerq`."""

from ledgerq.cli.main import main

if __name__ == "__main__":
    main()
