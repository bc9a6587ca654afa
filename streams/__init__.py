"""The streaming fabric: partitioned Redis Streams with exactly-once processing. It knows no service."""

from streams.catalog import Catalog, Stream, load_catalog
from streams.consumer import Batch, Consumer
from streams.fences import raise_fences
from streams.processor import Processor
from streams.producer import Producer, ProducerFencedError, SendResult
from streams.records import Outputs, OutRecord, Poison, Record

__all__ = [
    "Batch",
    "Catalog",
    "Consumer",
    "OutRecord",
    "Outputs",
    "Poison",
    "Processor",
    "Producer",
    "ProducerFencedError",
    "Record",
    "SendResult",
    "Stream",
    "load_catalog",
    "raise_fences",
]
