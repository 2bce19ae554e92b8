"""The process and its event loop: its name, forks, lag, background tasks, its end."""
