-- Posts digits and compares every answer with the expected bytes; without digits, sends GET requests.
-- Arguments: the path, and optionally a file that returns {{body = ..., answer = ...}, ...}.

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(args)
    wrong = 0       -- global, so that done() can read it
    requests, answers, turn = {}, {}, 0
    if args[2] == nil then
        requests[1] = wrk.format("GET", args[1])
        return
    end
    for number, digit in ipairs(dofile(args[2])) do
        local headers = {["Content-Type"] = "application/octet-stream", ["X-Request-ID"] = tostring(number)}
        requests[number] = wrk.format("POST", args[1], headers, digit.body)
        answers[number] = digit.answer
    end
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function response(status, headers, body)
    -- The server may reorder answers; the echoed number identifies them. wrk counts errors.
    if status == 200 and #answers > 0 and body ~= answers[tonumber(headers["x-request-id"])] then
        wrong = wrong + 1
    end
end

function done(summary, latency)
    local total = 0
    for _, thread in ipairs(threads) do
        total = total + thread:get("wrong")
    end
    local errors = summary.errors
    print(string.format(
        '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "broken": %d, "refused": %d, "wrong": %d}',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.connect + errors.read + errors.write + errors.timeout, errors.status, total))
end
