"""Minutes of nonsense at both listeners: `python -m tests.chaos.fuzz [--seconds 300] [--seed N]` (`make fuzz`).

Requests are real ones that were cut, joined, bit-flipped or drowned in random bytes, with headers of the same kind, on
the hot paths and on others, many at once. A replica must go on answering the good request right, log no traceback, and
not grow any more in the second half. Ends with 1 when one does not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from modelstore.deployments import DeploymentStore
from quantmesh.inference.v1 import inference_service_pb2 as pb
from runtime.redis_client import connect
from tests.inference_process import LISTENERS, Replica, serving
from tests.integration.inference_svc.models import boosted, register
from tests.mesh import family
from tests.raw_h2 import PREDICT, Answer, call, frame
from tests.redis_servers import single

SERVICE = "/quantmesh.inference.v1.InferenceService"
PATHS = (
    PREDICT,
    f"{SERVICE}/BatchPredict",
    f"{SERVICE}/StreamPredict",
    f"{SERVICE}/Nothing",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference/predict",
    "/inference/batch",
)
ROW = [0.5, -1.0, 2.0]
GOOD = pb.PredictRequest(features=ROW).SerializeToString()
SEEDS = (
    GOOD,
    pb.PredictRequest(features=ROW, model_name="momentum@champion", metadata={"desk": "a"}).SerializeToString(),
    pb.BatchPredictRequest(batch=[pb.FeatureRow(features=ROW)] * 3).SerializeToString(),
    pb.BatchPredictRequest(packed=pb.PackedRows(rows=1, values=b"\0" * 24)).SerializeToString(),
    b'{"features": [0.5, -1.0, 2.0], "metadata": {"a": "b"}}',
    b'{"batch": [[0.5, -1.0, 2.0]]}',
)
AT_ONCE = 16
LIMIT_S = 1.0
"""grpcio waits for a message that does not come until the caller gives up."""
MOST_GROWTH_MB = 24.0


def mutated(rng: random.Random) -> bytes:
    """A request that may have been one."""
    body = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randrange(4)):
        kind, at = rng.randrange(5), rng.randrange(len(body) + 1)
        if kind == 0 and body:
            body[at % len(body)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del body[at : at + rng.randrange(20)]
        elif kind == 2:
            body[at:at] = rng.randbytes(rng.randrange(40))
        elif kind == 3:
            body[at:at] = rng.choice(SEEDS)
        else:
            body *= rng.randrange(1, 40)
    length = None if rng.random() < 0.8 else rng.randrange(2**32)
    return bytes(body) if rng.random() < 0.3 else frame(bytes(body), flag=rng.choice((0, 0, 0, 1, 255)), length=length)


def headers(rng: random.Random) -> Sequence[tuple[str, str]]:
    """Headers, mostly none that is odd."""
    odd = {
        "grpc-timeout": rng.choice(("1S", "0n", "-1S", "99999999H", "1", "S", "\u0661S")),
        "grpc-encoding": rng.choice(("gzip", "identity", "zstd", "")),
        "content-type": rng.choice(("application/json", "application/grpc+proto", "text/plain", "")),
        "content-encoding": "gzip",
        "traceparent": rng.choice(("00-" + "1" * 32 + "-" + "2" * 16 + "-01", "junk", "00-0-0-0")),
        "te": "nothing",
        ":method": rng.choice(("GET", "PUT", "OPTIONS")),
        "x": "y" * rng.randrange(4_000),
    }
    return [(name, value) for name, value in odd.items() if rng.random() < 0.06]


async def fuzz(replica: Replica, seconds: float, seed: int) -> int:
    """Returns how many things went wrong."""
    rng, outcomes, wrong = random.Random(seed), Counter[str](), 0
    right = (await call(replica.port, frame(GOOD))).body
    ends, calls, first_mb = time.monotonic() + seconds, 0, 0.0
    warm = ends - seconds / 2
    while time.monotonic() < ends:
        sent = [(mutated(rng), headers(rng), rng.choice(PATHS)) for _ in range(AT_ONCE)]
        answers = await asyncio.gather(
            *(call(replica.port, body, with_headers, path=path, limit_s=LIMIT_S) for body, with_headers, path in sent),
            return_exceptions=True,
        )
        outcomes.update(_outcome(answer) for answer in answers)
        calls += len(answers)
        good = await call(replica.port, frame(GOOD))
        if good.status != 0 or good.body[5:14] != right[5:14]:  # the prediction: a tag and a double
            print(f"seed {seed}, after {calls} calls: the good request was answered {good}", file=sys.stderr)
            wrong += 1
        if not first_mb and time.monotonic() > warm:
            first_mb = resident_mb(replica.process.pid)
    grown_mb = resident_mb(replica.process.pid) - first_mb
    print(f"{replica.log.name}: {calls:,} calls, {dict(outcomes.most_common())}, {grown_mb:+.1f} MB")
    for text in ("Traceback", "panicked"):
        at = replica.said.find(text)
        if at >= 0:
            print(replica.said[max(at - 1_000, 0) : at + 3_000], file=sys.stderr)
            wrong += 1
    return wrong + (grown_mb > MOST_GROWTH_MB)


def _outcome(answer: Answer | BaseException) -> str:
    if isinstance(answer, BaseException):
        return type(answer).__name__
    if answer.reset:
        return "reset"
    return f"grpc {answer.status}" if answer.status >= 0 else f"http {answer.headers.get(':status', 'none')}"


def resident_mb(pid: int) -> float:
    """Of a process and all that it has started."""
    statuses = (Path(f"/proc/{each}/status").read_text() for each in family(pid))
    return sum(int(status.split("VmRSS:")[1].split()[0]) for status in statuses) / 1024


async def main(listeners: Sequence[str], seconds: float, seed: int) -> int:
    """Fuzz one listener after the other."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="quantmesh-fuzz-") as folder, single(Path(folder)) as running:
        version = register(Path(folder), boosted()[1])
        redis = connect(running.url)
        await DeploymentStore(redis).promote("momentum", version, expected_generation=None, reason="", request_id="")
        await redis.aclose()
        for listener in listeners:
            async with serving(Path(folder), running.url, listener, INFER_P99_MS_TARGET="30000") as replica:
                wrong += await fuzz(replica, seconds, seed)
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="for each listener (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--listeners", nargs="+", choices=LISTENERS, default=LISTENERS)
    options = parser.parse_args()
    sys.exit(1 if asyncio.run(main(options.listeners, options.seconds, options.seed)) else 0)
