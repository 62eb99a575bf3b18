"""The IO rim that every program shares: clock and chance, durable files, ownership of a directory, configuration, MQTT.

What lives here touches the operating system and decides nothing. Cores never import it: they take `now`, random numbers and
bytes as arguments. `runtime` may not import `fleet_io.mqtt`: it knows nothing of MQTT.
"""
