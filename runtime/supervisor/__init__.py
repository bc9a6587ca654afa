"""The supervisor: one mesh of processes, started in order, restarted when they die, and gone without a trace."""

from runtime.supervisor.child import ChildSpec
from runtime.supervisor.lock import MeshRunningError
from runtime.supervisor.mesh import Mesh, MeshFailedError
from runtime.supervisor.record import Addresses, MeshRecord, find_record, read_record

__all__ = [
    "Addresses",
    "ChildSpec",
    "Mesh",
    "MeshFailedError",
    "MeshRecord",
    "MeshRunningError",
    "find_record",
    "read_record",
]
