"""The process and its event loop: the process's name, forks, the loop's lag, background tasks, the process's end."""
