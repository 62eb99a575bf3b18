"""Every limit on what comes from outside, in one place. Sizes are bytes unless the name says otherwise."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

MESSAGE_BYTES: Final = 120 * KIB
"""No MQTT message is larger: AWS IoT Core stops at 128 KiB (DESIGN.md §3)."""

CHUNK_BYTES: Final = 96 * KIB
"""Raw bytes of a blob in one message."""

DESIRED_BYTES: Final = 4 * KIB
REPORTED_BYTES: Final = 64 * KIB
"""Room for all models of a device with all their refusals, when the reasons are short (`states.encode_reported`)."""
STATUS_BYTES: Final = 1 * KIB
REQUEST_BYTES: Final = 32 * KIB
EVENT_BYTES: Final = 16 * KIB

TELEMETRY_INFLATED_BYTES: Final = 1 * MIB
"""A telemetry body may not inflate beyond this: a small message must not become a large one."""

MANIFEST_BYTES: Final = 4 * MIB
METADATA_BYTES: Final = 4 * MIB
"""One TUF metadata file."""

BLOB_BYTES: Final = 4096 * MIB
GOLDEN_BYTES: Final = 64 * MIB
PROFILE_BYTES: Final = 4 * MIB

VARIANTS: Final = 32
"""Variants in one bundle."""

ASSIGNMENTS: Final = 16
"""Models assigned to one device."""

TENSORS: Final = 256
TENSOR_RANK: Final = 16
NESTING: Final = 64
"""Depth of JSON that is looked at."""

WINDOW_CHUNKS: Final = 256
"""Chunks that one request may ask for."""

USAGES: Final = 4 * ASSIGNMENTS
"""Model versions in one telemetry report."""
HISTOGRAM_BUCKETS: Final = 4096
REPORT_COUNT: Final = 1 << 40
"""Inferences that one report may speak of: what is summed over a fleet stays below 64 bits."""
CLASSES: Final = 4096
"""Distinct predicted classes, or error types, counted in one report."""
LABEL_CHARACTERS: Final = 200
"""Of a predicted class or error type; the rest is cut off."""

PROCESSING_BYTES: Final = 256 * KIB
STEPS: Final = 16
"""Steps of processing for one tensor."""
PICTURE_SIDE: Final = 8192
"""Pixels along one side, of what a step may ask for."""
DETECTIONS: Final = 10_000
"""Boxes that processing may keep of one picture."""
FEATURES: Final = 4096
"""Means, and spreads, that one step may have."""
SAMPLE_NUMBERS: Final = 16 * MIB
"""Numbers in one sample of anything but pictures: audio of 17 minutes at 16 kHz."""
FRAME: Final = 65536
"""Numbers in one frame of a signal."""
MATRIX: Final = 1 * MIB
"""Numbers in the matrix by which one step multiplies frames."""
AUDIO_RATE: Final = 384_000
"""Samples a second."""
