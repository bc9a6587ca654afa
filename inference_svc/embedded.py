"""inference_svc within Envoy: what Envoy is told to run (`runtime.envoy`)."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from inference_svc.app import build
from inference_svc.process import service
from runtime.envoy.guest import Guest
from runtime.envoy.host import BEHIND

app = Guest(service(partial(build, behind=Path(os.environ[BEHIND]))))
