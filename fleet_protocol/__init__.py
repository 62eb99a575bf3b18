"""The words that Edgeward's programs say to one another: formats, names, limits. Pure: no IO, no clock, no chance.

Everything above meets here, on the wire, and nowhere else. Bytes come in, frozen values come out, and the only error that
leaves this package is `ProtocolError`.
"""
