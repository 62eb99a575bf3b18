"""One file for each command; each exposes one click command named `command` and is imported only when it is used."""
