"""The HTTP server, the command line and the page. No torch in this process: it reads views and writes the inbox, nothing else."""
