"""The central side of releases: what is published, who is trusted, and which device should run what.

Blobs by digest, TUF metadata, device certificates, rollouts and desired states live here; so does the publisher's half of
publishing. Models are never loaded here, and nothing here knows Mosquitto or uvicorn: MQTT comes in as a `Transport`, HTTP
leaves as Starlette routes. `rollout` and `trust` are pure: they take `now` and values, and give values.
"""
