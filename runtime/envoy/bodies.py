"""The Envoy filter that hands a small request to Python whole, in one event.

Without it Python is told of the headers first, asks for the body, and Envoy hands that over in turn: three more changes
of threads for each call, a quarter of the time of one that is alone, and a seventh of the work of one among many.
"""

from __future__ import annotations

from runtime.envoy.values import FILTERS, Json

NAME = "bodies"

HEADER = "x-quantmesh-body"
"""The whole body in base64, after all other headers. A caller's header of that name never gets through."""

MOST_BYTES = 4096
"""Of a body that travels as a header. A larger one is asked for, whole: its base64 would cost more than it saves."""

# `body()` waits for the last byte. Envoy answers 413 when a body is larger than the buffer of its stream.
_SCRIPT = f"""
function envoy_on_request(request)
  local body = request:body()
  local size = body and body:length() or 0
  if size > 0 and size <= {MOST_BYTES} then
    request:headers():replace("{HEADER}", request:base64Escape(body:getBytes(0, size)))
  else
    request:headers():remove("{HEADER}")
  end
end
"""


def bodies() -> Json:
    """The filter; it goes before Python's."""
    script = {"@type": f"{FILTERS}.http.lua.v3.Lua", "default_source_code": {"inline_string": _SCRIPT}}
    return {"name": NAME, "typed_config": script}
