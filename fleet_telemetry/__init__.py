"""The central side of telemetry: takes in what devices report, counts it exactly once, and answers questions about it.

`aggregate` is pure: it merges and summarises. `schema`, `storage` and `reading` keep the counts in a database, `ingest` brings
reports from MQTT into it and acknowledges what is committed, `api` and `metrics` show it. `service` puts them together. Nothing
here knows the registry: what should run is its matter, what did run is ours.
"""
