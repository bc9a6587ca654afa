"""The streaming fabric: partitioned Redis Streams with exactly-once processing. It knows no service."""

from streams.catalog import Catalog, Stream, load_catalog
from streams.consumer import Batch, Consumer
from streams.fences import raise_fences
from streams.inbox import Inbox
from streams.jobs import Job
from streams.processor import Processor
from streams.producer import Producer, ProducerFencedError, SendResult
from streams.records import Outputs, OutRecord, Poison, Record
from streams.repartition import repartition
from streams.work_queue import WorkQueue

__all__ = [
    "Batch",
    "Catalog",
    "Consumer",
    "Inbox",
    "Job",
    "OutRecord",
    "Outputs",
    "Poison",
    "Processor",
    "Producer",
    "ProducerFencedError",
    "Record",
    "SendResult",
    "Stream",
    "WorkQueue",
    "load_catalog",
    "raise_fences",
    "repartition",
]
