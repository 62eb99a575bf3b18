"""Runs a model on everything that comes from one place, and puts the results into another, for as long as it is let.

    source = DirectoryItems(Path("inbox"), Seen(Path("seen.jsonl")))
    counts = Stream(host, "digits", model, source, FileResults(Path("results.jsonl"))).run(stop)

Sources and destinations are small interfaces (`places`); between source and model is a bounded line, in which an item waits or
is dropped, and then counted (`line`). An item that cannot be answered is a result with an error, and the stream goes on.
MQTT may not be known here: `edgeward.stream_mqtt` has a source and a destination for it.
"""

from runtime.streaming.line import Line, Policy
from runtime.streaming.places import Answered, Item, Results, Source
from runtime.streaming.stream import Counts, Stream

__all__ = ["Answered", "Counts", "Item", "Line", "Policy", "Results", "Source", "Stream"]
