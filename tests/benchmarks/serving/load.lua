-- Requests for wrk, made before the clock runs: wrk -s load.lua URL -- FILE RUN EXPECTED
--
-- Each line of FILE is a body; a tab in it stands for a request id, and no id comes twice (RUN and a counter).
-- An answer counts as wrong if its status is not 200 or if it does not hold EXPECTED.

local rows, run, sent, expected = {}, "", 0, ""
answered, wrong, example = 0, 0, ""  -- global: `done` asks for them from outside of the thread

function setup(thread)
  only = thread
end

function init(args)
  run, expected = args[2], args[3]
  for line in io.lines(args[1]) do
    local before, after = line:match("^(.-)\t(.*)$")
    local length = before and #before + #run + 10 + #after or #line
    local head = string.format(
      "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
      wrk.path, wrk.headers["Host"], length)
    rows[#rows + 1] = before and { head .. before .. run, after } or { head .. line }
  end
end

function request()
  sent = sent + 1
  local row = rows[sent % #rows + 1]
  return row[2] and row[1] .. string.format("%010d", sent) .. row[2] or row[1]
end

function response(status, headers, body)
  answered = answered + 1
  if status ~= 200 or not body:find(expected, 1, true) then
    wrong, example = wrong + 1, status .. " " .. body:sub(1, 200)
  end
end

function done(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    "\n%d %d %d %d %d %d %s\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    only:get("wrong"), failed, only:get("example"):gsub("%s+", " ")))
end
