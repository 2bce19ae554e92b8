"""The fault suite: real servers, real workers, faults from one seed, and the database asked what is true.

Run it with `make chaos` or `python -m tests.chaos --help`. Nothing of it is imported by the product.
"""
