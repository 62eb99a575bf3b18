"""The agent of one device: gets releases, proves them, runs them, and goes back by itself when they fail (DESIGN.md §5).

Pure, and tested without any IO: `machine`, `moves`, `model_state`, `events` (one model's life), `transfer_plan` (pulling
chunks), `variants`. Rim: `link`, `fetch`, `content`, `slots`, `journal`, `trust`, `enrolment`, `renewal`, `outbox`, `reporter`,
`perform`, `worker`. `agent` is the loop that owns all state; `daemon` puts everything together and runs it. Nothing here
converts, signs or decides for a fleet.
"""
