-- wrk: POST the lines of a file in turn, as JSON; print what came of it as JSON.
--   wrk -s post.lua URL -- BODIES
local requests, nextOne = {}, 0

function init(args)
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
  end
end

function request()
  nextOne = nextOne % #requests + 1
  return requests[nextOne]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"seconds": %.6f, "requests": %d, "not_2xx": %d, "broken": %d, "p50_ms": %.4f, "p99_ms": %.4f, '
      .. '"p999_ms": %.4f, "max_ms": %.4f}\n',
    summary.duration / 1e6, summary.requests, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
